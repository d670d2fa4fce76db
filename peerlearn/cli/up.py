"""`peerlearn up`: one peer for the user's own model, until it is stopped."""

import asyncio
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from peerlearn.casts import check_cast
from peerlearn.cli import choices, owner_status, run_settings
from peerlearn.cli.events_file import events_file
from peerlearn.cli.importing import load_learner
from peerlearn.cli.live import follower
from peerlearn.cli.output import Output
from peerlearn.cli.progress import PeerProgress
from peerlearn.config import Limits
from peerlearn.errors import ConfigError
from peerlearn.events import Record, Tee
from peerlearn.security.group import Group
from peerlearn.types import Address

if TYPE_CHECKING:
    from peerlearn.learning.learner import Learner
    from peerlearn.peer import Peer
    from peerlearn.strategies.base import Strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    learner: str
    name: str | None
    strategy: str
    peers: tuple[str, ...]
    listen: str | None
    insecure: bool
    group: Path | None
    group_tag: str
    rounds: int | None
    state: Path | None
    events: Path | None
    expose: Mapping[str, list[str]] | None
    limits: Limits
    save_every: float
    cast: str
    settings: Mapping[str, object] = field(default_factory=dict)
    """UpOptions of the strategy."""
    goal: int | None = None
    """Rounds in all, of a run that is resumed; `rounds` counts from where it stands."""
    resumed: bool = False
    """How to start is kept already, and stays."""


def up(options: UpOptions, output: Output) -> None:
    """What is cheap to check is checked first. Raises whatever stops a peer from starting, a PeerlearnError."""
    _check(options)
    if options.insecure and options.group is None:
        output.warn(
            "INSECURE: this peer listens beyond loopback without encryption; whoever reaches its port can read what it "
            "exposes and can teach it. Use it only in a network that you trust."
        )
    strategy = _strategy(options)
    learner = load_learner(options.learner)
    row = PeerProgress(rounds=options.rounds)
    with ExitStack() as stack:
        follow = stack.enter_context(follower(output, row))
        events = () if options.events is None else (stack.enter_context(events_file(options.events, output.warn)),)
        peer = _peer(learner, strategy, options, Tee(follow, *events))
        why = asyncio.run(_serve(peer, options, row))
    output.say(f"{peer.name} left after {row.round} rounds: {why}")
    output.result(
        {
            "name": peer.name, "id": peer.id, "rounds": row.round, "why": why, "metrics": row.metrics,
            "learned_from": sorted(row.taught_by), "bytes_received": row.received_bytes,
        }
    )  # fmt: skip


def _check(options: UpOptions) -> None:
    choices.strategy(options.strategy)
    choices.addresses(options.peers)
    if options.group is not None:
        if options.insecure:
            raise ConfigError("a group and --insecure exclude one another: leave one of them out")
        Group.load(options.group)
    if options.listen is not None:
        Address.parse(options.listen)
    if options.rounds is not None:
        choices.at_least(1, options.rounds, "--rounds")
    choices.above(0, options.save_every, "--save-every")
    check_cast(options.cast)


def _strategy(options: UpOptions) -> "Strategy":
    """Before the app is imported, which may take long, and do much."""
    from peerlearn.strategies import registry
    from peerlearn.tuning.malloc import tune_allocator

    tune_allocator()
    return registry.make(options.strategy, **options.settings)


def _peer(learner: "Learner", strategy: "Strategy", options: UpOptions, record: Record) -> "Peer":
    from peerlearn.peer import Peer
    from peerlearn.tuning.gc import tune_collector

    tune_collector()
    return Peer(
        learner, strategy=strategy, name=options.name or "", state=options.state, listen=options.listen,
        peers=options.peers, group_tag=options.group_tag, insecure=options.insecure, record=record,
        group=options.group, expose=options.expose, limits=options.limits, save_every=options.save_every,
        cast=options.cast,
    )  # fmt: skip


def _how(peer: "Peer", options: UpOptions, *, done: int) -> run_settings.RunSettings:
    """To start this peer again, from wherever."""
    usual = Limits()
    return run_settings.RunSettings(
        directory=str(Path.cwd()), learner=options.learner, name=peer.name, strategy=options.strategy,
        settings=dict(options.settings),
        goal=None if options.rounds is None else done + options.rounds, peers=options.peers,
        listen=options.listen, insecure=options.insecure, group=_absolute(options.group), group_tag=options.group_tag,
        events=_absolute(options.events), save_every=options.save_every, cast=options.cast,
        expose=None if options.expose is None else {who: list(what) for who, what in options.expose.items()},
        limits={
            each.name: getattr(options.limits, each.name)
            for each in fields(Limits)
            if getattr(options.limits, each.name) != getattr(usual, each.name)
        },
    )  # fmt: skip


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def _rounds(peer: "Peer", options: UpOptions, row: PeerProgress) -> int | None:
    """How many are to be done."""
    if options.goal is None:
        return options.rounds
    row.rounds = options.goal
    return max(0, options.goal - peer.rounds_done)


async def _serve(peer: "Peer", options: UpOptions, row: PeerProgress) -> str:
    """Learn and teach until the rounds are done or somebody stops us; why it ended. A second signal ends it at once."""
    stopped = asyncio.Event()
    if options.state is not None and run_settings.fresh(options.state):  # what is killed from here on can be resumed
        run_settings.keep(options.state, _how(peer, options, done=0))
    with _on_signals(stopped.set):
        async with peer, asyncio.TaskGroup() as group:
            if options.state is not None and not options.resumed:
                run_settings.keep(options.state, _how(peer, options, done=peer.rounds_done))
            learning = group.create_task(peer.run(_rounds(peer, options, row)), name="up")
            stopping = group.create_task(stopped.wait(), name="signals")
            telling = (
                [group.create_task(owner_status.keep(peer, options.state), name="standing")] if options.state else []
            )
            await asyncio.wait((learning, stopping), return_when=asyncio.FIRST_COMPLETED)
            for task in (learning, stopping, *telling):
                task.cancel()
    return "stopped" if stopped.is_set() else "all rounds done"


@contextmanager
def _on_signals(stop: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)

    def once() -> None:
        for number in signals:
            loop.remove_signal_handler(number)
        stop()

    for number in signals:
        loop.add_signal_handler(number, once)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
