"""`peerlearn group`: who may join. What a holder of the group file does; peers do the rest among themselves."""

from pathlib import Path
from typing import Annotated

import typer

from peerlearn.cli.options import GroupFile, Json, Static, group_file
from peerlearn.cli.output import Output

app = typer.Typer(
    name="group", help="Who may join: make a group, show it, let a machine in, shut one out.", no_args_is_help=True
)

Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The file to write; never one that exists.")]


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="What people call it; others do not see it.")] = "home",
    out: Out = None,
    days: Annotated[float, typer.Option("--days", help="How long it holds.")] = 5 * 365,
    as_json: Json = False,
) -> None:
    """Make a group: a file that is its key. Whoever holds a copy is in, and can let others in."""
    from peerlearn.cli.group import commands

    commands.new(name, out, days, Output(as_json=as_json))


@app.command()
def show(group: GroupFile = None, as_json: Json = False) -> None:
    """What a group file holds, without its secrets."""
    from peerlearn.cli.group import commands

    commands.show(commands.required(group_file(group)), Output(as_json=as_json))


@app.command()
def issue(
    name: Annotated[str, typer.Argument(help="What to call the machine that it is for.")],
    group: GroupFile = None,
    out: Out = None,
    days: Annotated[float, typer.Option("--days", help="How long it holds.")] = 90,
    as_json: Json = False,
) -> None:
    """A file for a machine that should not hold the group's key: it is in until this expires, and can let nobody in."""
    from peerlearn.cli.group import commands

    commands.issue(name, commands.required(group_file(group)), out, days, Output(as_json=as_json))


@app.command()
def revoke(
    who: Annotated[
        list[str], typer.Argument(metavar="WHO...", help="Name of an issued certificate or of a peer, or id.")
    ],
    group: GroupFile = None,
    seconds: Annotated[float, typer.Option("--seconds", help="How long to look for peers to tell; 0: not at all.")] = 2,
    peer: Static = None,
    as_json: Json = False,
) -> None:
    """Shut out a certificate or a peer, and tell the peers that are up; they tell the others."""
    from peerlearn.cli.group import commands

    commands.revoke(who, commands.required(group_file(group)), seconds, tuple(peer or ()), Output(as_json=as_json))


@app.command()
def rotate(
    group: GroupFile = None,
    overlap: Annotated[float, typer.Option("--overlap", metavar="DAYS", help="How long old files still work.")] = 7,
    days: Annotated[float, typer.Option("--days", help="How long the new key holds.")] = 5 * 365,
    as_json: Json = False,
) -> None:
    """Give the group a new key, in the same file. Copy it to all who hold the old one before the overlap ends."""
    from peerlearn.cli.group import commands

    commands.rotate(commands.required(group_file(group)), overlap, days, Output(as_json=as_json))
