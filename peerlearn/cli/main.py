"""The command line: parse, call, print. Heavy rooms are imported inside the command that needs them."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from peerlearn.cli.boundary import guarded, leave
from peerlearn.cli.group.app import app as group_app
from peerlearn.cli.options import (
    Bounds,
    Exposures,
    GroupFile,
    Json,
    Settings,
    Static,
    exposures,
    group_file,
    limits,
    settings,
)
from peerlearn.cli.output import Output
from peerlearn.config import NO_TLS_1_2
from peerlearn.errors import ConfigError
from peerlearn.version import __version__

# Read once, when grpc is imported. Its fork handlers may hang a process that forks; and what it has to say about ports
# and connections our commands say in one sentence: on stderr it would stand between our own lines.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault(*NO_TLS_1_2)

app = typer.Typer(
    name="peerlearn",
    help="Peers on a LAN find one another and teach one another in real time. Exit codes: docs/exit-codes.md.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

StrategyName = Annotated[str, typer.Option("--strategy", metavar="NAME", help="How to learn from others.")]
Seconds = Annotated[float, typer.Option("--seconds", help="How long to look.")]
GroupTag = Annotated[str, typer.Option("--group-tag", metavar="TAG", help="Only peers of the same tag meet.")]

app.add_typer(group_app)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if show_version:
        version()
        raise typer.Exit
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


@app.command()
def demo(
    strategy: StrategyName = "distillation",
    rounds: Annotated[int | None, typer.Option("--rounds", help="Rounds of local training and transfer.")] = None,
    peers: Annotated[int, typer.Option("--peers", help="Processes to start.")] = 3,
    seed: Annotated[int, typer.Option("--seed", help="Of data, models and batch order.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Run directory; default: runs/…")] = None,
    as_json: Json = False,
) -> None:
    """Three processes on this machine find one another by mDNS and learn from one another: table, picture, report."""
    from peerlearn.cli.demo import command as door

    door.demo(door.DemoOptions(strategy, rounds, peers, seed, out), Output(as_json=as_json))


@app.command()
def up(
    learner: Annotated[str, typer.Argument(metavar="MODULE:NAME", help="Your Learner, or a function that makes it.")],
    name: Annotated[str, typer.Option("--name", help="What others call this peer; default: one is made up.")] = "",
    strategy: StrategyName = "distillation",
    setting: Settings = None,
    peer: Static = None,
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="HOST:PORT", help="Default: loopback, any free port.")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Listen beyond loopback, without encryption.")] = False,
    group: GroupFile = None,
    group_tag: GroupTag = "",
    expose: Exposures = None,
    limit: Bounds = None,
    cast: Annotated[
        str, typer.Option("--cast", help="Lossy, for slow networks: bfloat16, float16, int8, topk:0.01.")
    ] = "",
    rounds: Annotated[int | None, typer.Option("--rounds", help="Leave after so many; default: until stopped.")] = None,
    state: Annotated[Path | None, typer.Option("--state", metavar="DIR", help="Identity and checkpoints.")] = None,
    save_every: Annotated[
        float, typer.Option("--save-every", metavar="SECONDS", help="Of a long span, what a crash may cost.")
    ] = 30.0,
    events: Annotated[Path | None, typer.Option("--events", metavar="FILE", help="Append events as JSONL.")] = None,
    as_json: Json = False,
) -> None:
    """Launch a peer for your own model. Ctrl-C says goodbye, saves and leaves."""
    from peerlearn.cli import up as door
    from peerlearn.cli.run_settings import RunSettings

    door.up(
        RunSettings(
            learner=learner, name=name, strategy=strategy, options=settings(setting or ()), peers=tuple(peer or ()),
            listen=listen, insecure=insecure, group=group_file(group), group_tag=group_tag,
            expose=exposures(expose or ()), limits=limits(limit or ()), cast=cast, rounds=rounds, state=state,
            save_every=save_every, events=events,
        ),
        Output(as_json=as_json),
    )  # fmt: skip


@app.command()
def resume(
    state: Annotated[Path, typer.Argument(metavar="DIR", help="What was given to `peerlearn up --state`.")],
    rounds: Annotated[
        int | None, typer.Option("--rounds", help="Leave after so many more; default: as many as were to be done.")
    ] = None,
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="HOST:PORT", help="Another address than before.")
    ] = None,
    peer: Static = None,
    group: GroupFile = None,
    events: Annotated[Path | None, typer.Option("--events", metavar="FILE", help="Another file than before.")] = None,
    as_json: Json = False,
) -> None:
    """Go on with a peer that was stopped, or killed: as it was started, from where it stood, to the same bits."""
    from peerlearn.cli import resume as door

    door.resume(
        state, Output(as_json=as_json), rounds=rounds, listen=listen, peers=peer, group=group_file(group), events=events
    )


@app.command()
def ls(
    watch: Annotated[bool, typer.Option("--watch", help="Go on looking until Ctrl-C.")] = False,
    seconds: Seconds = 2.0,
    group: GroupFile = None,
    group_tag: GroupTag = "",
    peer: Static = None,
    as_json: Json = False,
) -> None:
    """Who is on the LAN, what they know, who learns from whom."""
    from peerlearn.cli import ls as door

    scope = door.Scope(seconds, group_tag, tuple(peer or ()), group_file(group))
    door.ls(scope, Output(as_json=as_json), watch=watch)


@app.command()
def show(
    who: Annotated[str | None, typer.Argument(metavar="PEER", help="Name, or the start of an id.")] = None,
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="DIR", help="Instead: your own peer, whom it has put aside and why."),
    ] = None,
    seconds: Seconds = 2.0,
    group: GroupFile = None,
    group_tag: GroupTag = "",
    peer: Static = None,
    as_json: Json = False,
) -> None:
    """One peer's card in full; or how your own peer stands with others, which nobody else can see."""
    from peerlearn.cli import ls as door
    from peerlearn.cli import owner_status

    if (who is None) == (state is None):
        raise ConfigError("name the peer to show, or the directory of your own by --state, and not both")
    if state is not None:
        return owner_status.show(state, Output(as_json=as_json))
    assert who is not None
    scope = door.Scope(seconds, group_tag, tuple(peer or ()), group_file(group))
    door.show(who, scope, Output(as_json=as_json))


experiment = typer.Typer(help="Run the experiments of the papers, and your own, from one TOML file each.")
app.add_typer(experiment, name="experiment")


@experiment.command("run")
def experiment_run(
    file: Annotated[str, typer.Argument(metavar="FILE.toml", help="An experiment, or the name of one that ships.")],
    seeds: Annotated[int | None, typer.Option("--seeds", help="How many; default: those of the file.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The small size: done within two minutes.")] = False,
    transport: Annotated[str, typer.Option("--transport", help="memory or grpc (loopback): the same bits.")] = "memory",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where results go; finished runs there are kept.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run every variant with every seed, then report. Called again, it goes on where it was interrupted."""
    from peerlearn.cli import experiment as door

    door.experiment_run(door.ExperimentOptions(file, seeds, quick, transport, out), Output(as_json=as_json))


@experiment.command("list")
def experiment_list(as_json: Json = False) -> None:
    """The experiments that ship."""
    from peerlearn.cli import experiment as door

    door.experiment_list(Output(as_json=as_json))


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="What `experiment run` has written.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Into DIR/results.md, beside what is there; else each its own."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Tables, claims and pictures of experiments, beside the papers' numbers."""
    from peerlearn.cli import report as door

    door.report(folders, out, Output(as_json=as_json))


@app.command()
def simulate(
    peers: Annotated[int, typer.Option("--peers", help="How many there are.")] = 50,
    hours: Annotated[float, typer.Option("--hours", help="Of virtual time.")] = 24.0,
    faults: Annotated[str, typer.Option("--faults", help="none, calm (comings and goings), or storm.")] = "storm",
    seed: Annotated[int, typer.Option("--seed", help="All that happens comes from it.")] = 0,
    seeds: Annotated[str | None, typer.Option("--seeds", metavar="A..B", help="One run each, up to a failure.")] = None,
    beat: Annotated[
        float | None, typer.Option("--beat", metavar="SECONDS", help="Between beats; default: 96 in the whole run.")
    ] = None,
    strategy: StrategyName = "distillation",
    as_json: Json = False,
) -> None:
    """Whole peers under a virtual clock, driven from one seed: a day of churn in seconds, the same to the bit."""
    from peerlearn.cli import simulate as door

    door.simulate(door.SimulateOptions(peers, hours, faults, seed, seeds, beat, strategy), Output(as_json=as_json))


@app.command()
def doctor(group: GroupFile = None, as_json: Json = False) -> None:
    """Check what makes discovery on a LAN fail, and print the fix beside each failure."""
    from peerlearn.cli.doctor import command as door

    raise typer.Exit(door.doctor(Output(as_json=as_json), group_file(group)))


@app.command()
def version(as_json: Json = False) -> None:
    """The version of peerlearn, and of the protocol that it speaks."""
    from peerlearn.types import PROTOCOL

    output = Output(as_json=as_json)
    output.result({"peerlearn": __version__, "protocol": list(PROTOCOL)})
    if not as_json:
        sys.stdout.write(f"peerlearn {__version__} (protocol {PROTOCOL[0]}.{PROTOCOL[1]})\n")


def main(arguments: Sequence[str]) -> int:
    """Run one command; the exit code."""
    return guarded(
        lambda: app(args=list(arguments), prog_name="peerlearn", standalone_mode=False),
        as_json="--json" in arguments,
    )


def run() -> NoReturn:
    leave(main(sys.argv[1:]))
