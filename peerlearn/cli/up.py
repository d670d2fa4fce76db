"""`peerlearn up`: one peer for the user's own model, until it is stopped."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from peerlearn.cli import choices, owner_status, run_settings
from peerlearn.cli.events_file import events_file
from peerlearn.cli.importing import load_learner
from peerlearn.cli.live import live_row
from peerlearn.cli.output import Output
from peerlearn.cli.progress import PeerProgress
from peerlearn.cli.run_settings import RunSettings
from peerlearn.events import Record, Tee
from peerlearn.security.group import Group

if TYPE_CHECKING:
    from peerlearn.learning.learner import Learner
    from peerlearn.peer import Peer
    from peerlearn.strategies.base import Strategy


def up(settings: RunSettings, output: Output, *, keep: bool = True) -> None:
    """Run a peer until its rounds are done or it is stopped. What is cheap to check is checked first.

    keep: write the settings into the state directory; a resumed peer keeps those it was started with.
    Raises what stops a peer from starting, a PeerlearnError.
    """
    choices.strategy(settings.strategy)
    if settings.group is not None:
        Group.load(settings.group)
    if settings.insecure:
        output.warn(
            "INSECURE: this peer listens beyond loopback without encryption; whoever reaches its port can read what it "
            "exposes and can teach it. Use it only in a network that you trust."
        )
    strategy = _strategy(settings)
    learner = load_learner(settings.learner)
    row = PeerProgress(rounds=settings.rounds if settings.since is None else None)
    with ExitStack() as stack:
        shown = stack.enter_context(live_row(output, row))
        events = () if settings.events is None else (stack.enter_context(events_file(settings.events, output.warn)),)
        peer = _peer(learner, strategy, settings, Tee(shown, *events))
        why = asyncio.run(_serve(peer, settings, row, keep=keep))
    output.say(f"{peer.name} left after {row.round} rounds: {why}")
    output.result(
        {
            "name": peer.name, "id": peer.id, "rounds": row.round, "why": why, "metrics": row.metrics,
            "learned_from": sorted(row.taught_by), "bytes_received": row.received_bytes,
        }
    )  # fmt: skip


def _strategy(settings: RunSettings) -> "Strategy":
    """Before the app is imported, which may take long, and do much."""
    from peerlearn.strategies import registry
    from peerlearn.tuning.malloc import tune_allocator

    tune_allocator()
    return registry.make(settings.strategy, **settings.options)


def _peer(learner: "Learner", strategy: "Strategy", settings: RunSettings, record: Record) -> "Peer":
    from peerlearn.arguments import Internals, Network, Sharing
    from peerlearn.peer import Peer
    from peerlearn.tuning.gc import tune_collector

    tune_collector()
    return Peer(
        learner, strategy=strategy, name=settings.name, state=settings.state, record=record,
        network=Network(
            listen=settings.listen, peers=settings.peers, group=settings.group, insecure=settings.insecure,
            group_tag=settings.group_tag, limits=settings.limits,
        ),
        sharing=Sharing(expose=settings.expose, cast=settings.cast),
        internals=Internals(save_every=settings.save_every),
    )  # fmt: skip


async def _serve(peer: "Peer", settings: RunSettings, row: PeerProgress, *, keep: bool) -> str:
    """Learn and teach until the rounds are done or a signal comes; why it ended. A second signal ends it at once."""
    stopped = asyncio.Event()
    settings = replace(settings, name=peer.name)
    if settings.state is not None and run_settings.fresh(settings.state):  # killed from here on, it can be resumed
        run_settings.keep(replace(settings, since=0))
    with _on_signals(stopped.set):
        async with peer, asyncio.TaskGroup() as group:
            if settings.since is None:
                settings = replace(settings, since=peer.rounds_done)
            else:
                row.rounds = settings.goal
            if settings.state is not None and keep:
                run_settings.keep(settings)
            learning = group.create_task(peer.run(_rounds(settings, peer)), name="up")
            stopping = group.create_task(stopped.wait(), name="signals")
            telling = (
                [] if settings.state is None
                else [group.create_task(owner_status.keep(peer, settings.state), name="owner status")]
            )  # fmt: skip
            await asyncio.wait((learning, stopping), return_when=asyncio.FIRST_COMPLETED)
            for task in (learning, stopping, *telling):
                task.cancel()
    return "stopped" if stopped.is_set() else "all rounds done"


def _rounds(settings: RunSettings, peer: "Peer") -> int | None:
    """How many are still to be done."""
    return None if settings.goal is None else max(0, settings.goal - peer.rounds_done)


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
