"""One run on the fabric: whole peers in one process, over memory or over gRPC on loopback, measured round by round."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from peerlearn.arguments import Internals, Network, Sharing
from peerlearn.config import Timing
from peerlearn.discovery.base import Discovery
from peerlearn.discovery.lobby import Lobby
from peerlearn.errors import PeerUnreachable
from peerlearn.experiments.run import build, measures, network_faults, workloads
from peerlearn.experiments.run.build import SharedData
from peerlearn.experiments.run.clocks import CpuSeconds
from peerlearn.experiments.run.evaluation import Evaluator, rounded
from peerlearn.experiments.run.network_faults import Kind
from peerlearn.experiments.run.recorder import Recorder, Series
from peerlearn.experiments.spec.setup import Setup
from peerlearn.learning.learner import Learner
from peerlearn.orchestrator.pace import Pace
from peerlearn.orchestrator.training.compute import Compute
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.peer import Peer
from peerlearn.schedule import Transfer
from peerlearn.security.identity import Identity
from peerlearn.strategies import registry
from peerlearn.strategies.base import Strategy
from peerlearn.transport.faults.model import NONE
from peerlearn.transport.memory.transport import MemoryNetwork

TIMING = Timing(
    suspect_after=60.0, gone_after=300.0, base=60.0, stall=60.0, floor_rate=1024, retry_first=0.05, retry_most=1.0
)
"""Peers of one process share its cores: a peer that computes for long must not pass for a dead one."""
_MEETING = 120.0
_QUIET = 1.0
"""Seconds without an event after which a peer that waits for others' knowledge has taken in what there was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run is given. `stepped`: called with the rounds that all peers together have done and are to do."""

    setup: Setup
    identity: str
    """Prefix of the texts that the peers' identities are made from."""
    seed: int
    world: SharedData
    folder: Path
    stepped: Callable[[int, int], None] = lambda done, goal: None


@dataclass(eq=False)
class PeerRun:
    """One peer at the table, with all that is kept of it."""

    name: str
    learner: Learner
    strategy: Strategy
    exam: Evaluator | None
    recorder: Recorder
    cpu: CpuSeconds = field(default_factory=CpuSeconds)
    confusion: list[list[int]] = field(default_factory=list)
    curve: Mapping[str, list[float]] = field(default_factory=dict)

    @property
    def event_driven(self) -> bool:
        return not self.strategy.schedule.cycle

    def measured(self) -> dict[str, float]:
        """On the learner's thread."""
        assert self.exam is not None
        with self.cpu.paused():
            probabilities = self.strategy.predict(self.learner, self.exam.test.x)
            return rounded(
                {**self.exam.metrics(probabilities), **measures.extras(self.strategy, self.learner, self.exam)}
            )

    def finish(self) -> None:
        """On the learner's thread: what the table and the pictures need of the final state."""
        assert self.exam is not None
        probabilities = self.strategy.predict(self.learner, self.exam.test.x)
        self.confusion = self.exam.confusion(probabilities).tolist()
        self.curve = self.exam.curve(probabilities).points()


async def run(given: Run, kind: Kind) -> list[PeerRun]:
    """Raises what a peer raises; nothing is left running."""
    with (given.folder / "metrics.jsonl").open("w", encoding="utf-8") as stream:
        seats = [_seat(given, name, stream) for name in given.setup.peers.all]
        try:
            async with _gathered(given, kind, seats) as peers:
                await _learn(given, list(zip(seats, peers, strict=True)))
        finally:
            for seat in seats:
                seat.recorder.close()
    return seats


def _seat(given: Run, name: str, stream: TextIO) -> PeerRun:
    setup = given.setup
    strategy = registry.make(setup.strategy.name, **setup.strategy.options_of(name))
    recorder = Recorder(name, given.folder, Series(name, stream), by_versions=not strategy.schedule.cycle)
    exam = build.exam(setup, given.world, name) if name in setup.peers.looked_at else None
    make = build.learner if setup.stream is None else workloads.learner
    return PeerRun(name, make(setup, given.world, name, given.seed), strategy, exam, recorder)


# ---------------------------------------------------------------- opened together


@asynccontextmanager
async def _gathered(given: Run, kind: Kind, seats: list[PeerRun]) -> AsyncIterator[list[Peer]]:
    """All of them open, and each has met all the others."""
    network, lobby = MemoryNetwork(faults=given.setup.faults or NONE, seed=given.seed), Lobby()
    peers: list[Peer] = []
    async with AsyncExitStack() as stack:
        for seat in seats:
            where = _settings(given, kind, seat)
            if kind == "memory":
                where.internals.update(_over_memory(network, lobby, where.network["timing"]))
            else:
                where.network.update(listen="127.0.0.1:0", peers=[p.address for p in peers])
                where.internals.update(discovery=())
            peers.append(await stack.enter_async_context(_peer(given, seat, where)))
        for peer in peers:
            await peer.meet(len(peers) - 1, timeout=_MEETING)
        yield peers


@dataclass(frozen=True, slots=True)
class _Where:
    """Arguments of Network and of Internals that depend on what carries the run."""

    network: dict[str, Any]
    internals: dict[str, Any]


def _peer(given: Run, seat: PeerRun, where: _Where) -> Peer:
    setup = given.setup
    recorder = seat.recorder
    every, goal = setup.measure.every, setup.rounds_of(seat.name)

    def measure(_: object) -> Mapping[str, float]:
        """Before a transfer, in rounds that are measured; always where rounds are versions."""
        last_of_some = (recorder.round + 1) % every == 0 or recorder.round + 1 == goal
        wanted = seat.event_driven or (recorder.phase == "local" and last_of_some)
        return seat.measured() if wanted else {}

    transfers = seat.event_driven or any(isinstance(phase, Transfer) for phase in seat.strategy.schedule.cycle)
    return Peer(
        seat.learner,
        strategy=seat.strategy,
        name=seat.name,
        sharing=Sharing(learn_from=setup.topology.providers(setup.peers.all)[seat.name]),
        pace=Pace(mode=setup.pace.mode, patience=setup.pace.patience),
        gate=Gate(metric=setup.training.gate, tolerance=setup.training.tolerance),
        measure=measure if seat.exam is not None and transfers else None,
        record=recorder,
        network=Network(group_tag=given.identity, **where.network),
        internals=Internals(identity=Identity.of_seed(f"{given.identity}/{seat.name}"), **where.internals),
    )


def _settings(given: Run, kind: Kind, seat: PeerRun) -> _Where:
    faults = given.setup.faults

    def compute(room: str) -> Compute:
        return network_faults.compute(faults, kind, room, name=seat.name, learner=seat.learner, clock=seat.cpu)

    timing = TIMING if faults is None else network_faults.TIMING
    bad = network_faults.internals(faults, kind, seed=given.seed, peer=seat.name)
    return _Where({"timing": timing}, {"compute": compute, **bad})


def _over_memory(network: MemoryNetwork, lobby: Lobby, timing: Timing) -> dict[str, Any]:
    transport = network.transport(timing=timing)
    doors: list[Discovery] = [lobby.door(transport.address)]
    return {"transport": transport, "discovery": doors}


# ---------------------------------------------------------------- learning


async def _learn(given: Run, table: list[tuple[PeerRun, Peer]]) -> None:
    """Every peer does its rounds; those that wait for others' knowledge serve until they have published enough."""
    progress, others_done = _Progress(given), asyncio.Event()
    async with asyncio.TaskGroup() as serving:
        for seat, peer in table:
            if seat.event_driven:
                serving.create_task(_serve(given, seat, peer, others_done), name=f"{seat.name}:serves")
        async with asyncio.TaskGroup() as learning:
            for seat, peer in table:
                if not seat.event_driven:
                    learning.create_task(_rounds(given, seat, peer, progress), name=f"{seat.name}:rounds")
        others_done.set()
    for seat, peer in table:
        if seat.exam is not None:
            await peer.train(seat.finish)


async def _rounds(given: Run, seat: PeerRun, peer: Peer, progress: "_Progress") -> None:
    goal, every = given.setup.rounds_of(seat.name), given.setup.measure.every
    while peer.rounds_done < goal:
        before = peer.rounds_done
        await peer.run(min(every, goal - before))
        if seat.exam is not None:
            seat.recorder.series.put(peer.rounds_done, await peer.train(seat.measured), phase="round")
        progress.add(peer.rounds_done - before)


async def _serve(given: Run, seat: PeerRun, peer: Peer, others_done: asyncio.Event) -> None:
    """Until it has published as many versions as it has rounds (0: as many as come). Raises PeerUnreachable when all
    the others are done, it has nothing left to do, and there are fewer."""
    goal = given.setup.rounds_of(seat.name)
    enough = asyncio.Event()
    seat.recorder.changed = lambda: enough.set() if goal and seat.recorder.version >= goal else None
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(peer.run(None), name=f"{seat.name}:run")
        ends = [
            tasks.create_task(enough.wait(), name=f"{seat.name}:versions"),
            tasks.create_task(_settled(seat, peer, others_done), name=f"{seat.name}:settled"),
        ]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in (running, *ends):
            task.cancel()
    if seat.recorder.version < goal:
        raise PeerUnreachable(
            seat.name, f"published {seat.recorder.version} of {goal} versions, and all the others are done"
        )


async def _settled(seat: PeerRun, peer: Peer, others_done: asyncio.Event) -> None:
    """The others are done, and this peer has had nothing to say for a while and is not computing."""
    await others_done.wait()
    said = -1
    while said != seat.recorder.said:
        said = seat.recorder.said
        await asyncio.sleep(_QUIET)
        await peer.train(lambda: None)


class _Progress:
    def __init__(self, given: Run) -> None:
        self._stepped = given.stepped
        self._goal = sum(given.setup.rounds_of(name) for name in given.setup.peers.all)
        self._done = 0

    def add(self, rounds: int) -> None:
        self._done += rounds
        self._stepped(self._done, self._goal)
