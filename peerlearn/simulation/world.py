"""The world of a simulation: whole peers on machines in a network, and their faults, from one seed."""

import asyncio
import contextlib
import gc
import hashlib
import logging
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from peerlearn.arguments import Internals, Network, Sharing
from peerlearn.events import Event
from peerlearn.orchestrator.training.compute import Compute
from peerlearn.peer import Peer
from peerlearn.schedule import Exchange
from peerlearn.security.identity import Identity
from peerlearn.simulation import fault_schedule
from peerlearn.simulation import peers as cast
from peerlearn.simulation.environment import DiskStore, Lan, Unhurried, Witnessed, call_bound
from peerlearn.simulation.invariants import Breach, Invariants
from peerlearn.simulation.life import Life, Place
from peerlearn.simulation.loop import Machine, StandstillError, VirtualLoop, on
from peerlearn.simulation.scenario import Scenario
from peerlearn.simulation.trace import Trace
from peerlearn.strategies import registry
from peerlearn.tasks import sole_cause
from peerlearn.transport.faults.model import Faults
from peerlearn.transport.memory.transport import MemoryNetwork
from peerlearn.types import Address

_COMPUTING = {"learner": 2.0, "answers": 0.2}
"""Longest duration of one call to a peer's computing threads, in virtual seconds."""
_CALLS_A_ROUND = 200
"""Bound on the computing calls of one round; generous, since it only catches rounds that never end."""
_PROVIDERS = 2
"""Providers that a peer asks in one exchange at most."""
_LEAVING = 60.0
"""Seconds within which a peer must have left: a call in progress, and half a second for its goodbye."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationResult:
    """The result of a run. `breach` is None when every invariant held. `known_after`: seconds from the last fault until
    all peers knew each other, nan if they did not."""

    scenario: Scenario
    breach: Breach | None
    digest: str
    counts: dict[str, int]
    checks: int
    lives: int
    rounds: int
    known_after: float
    longest_call: float
    virtual_seconds: float
    wall_seconds: float


def simulate(scenario: Scenario) -> SimulationResult:
    """Run a simulation. Raises ConfigError for settings that cannot work; a breach is part of the result."""
    began = time.perf_counter()
    with _alone():
        loop = VirtualLoop()
        world = World(loop, scenario)
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                breach = runner.run(world.run())
        except StandstillError as exc:
            breach = Breach("ends", str(exc), loop.time())
    return world.outcome(breach, time.perf_counter() - began)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """A block with one torch thread, a quiet log and less garbage collection. Sums over several threads come in any
    order, and one is the fastest for networks this small. Warnings of laptops that slept are expected here. Walking all
    of torch in each collection would take a third of the time."""
    threads, log, thresholds = torch.get_num_threads(), logging.getLogger("peerlearn"), gc.get_threshold()
    level = log.level
    torch.set_num_threads(1)
    log.setLevel(logging.ERROR)
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # peers make many short-lived objects, few of them in cycles
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        torch.set_num_threads(threads)
        log.setLevel(level)


class World:
    """The peers and faults of one run, inside one loop."""

    def __init__(self, loop: VirtualLoop, scenario: Scenario) -> None:
        self._loop = loop
        self._scenario = scenario
        self._trace = Trace()
        self._places = [Place(number, cast.name_of(number)) for number in range(scenario.peers)]
        self._half: frozenset[int] = frozenset()
        self._addresses: dict[Address, int] = {}
        self._rounds_done = self._lives = 0
        self._known_after = float("nan")
        self._ended = 0.0

    async def run(self) -> Breach | None:
        """Run to the end or to the first breach, which is returned."""
        self.invariants = Invariants(self._loop, self._scenario)
        self._network = MemoryNetwork(seed=self._scenario.seed)
        self._lan = Lan(self._rng("lan"), self._apart)
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                course = tasks.create_task(self._course(), name="course")
                ends: list[asyncio.Future[Any]] = [course, self.invariants.broken]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                self._ended = self._loop.time()
                self._end(course)
        except BaseExceptionGroup as group:
            raise sole_cause(group) from None
        left = sorted(task.get_name() for task in asyncio.all_tasks(self._loop) - {asyncio.current_task()})
        self.invariants.quiet(self._loop.failures, left)
        for place in self._places:
            if place.life is not None:
                self._trace.state(place.name, place.life.learner.state)
        return self.invariants.broken.result() if self.invariants.broken.done() else None

    def _end(self, course: asyncio.Task[None]) -> None:
        """Let all peers say goodbye; after a breach, cancel them."""
        course.cancel()
        broken = self.invariants.broken.done()
        for life in [place.life for place in self._places if place.life is not None]:
            self._loop.thaw(life.machine)
            life.leaving.set()
            if broken and life.task is not None:
                life.task.cancel()

    def outcome(self, breach: Breach | None, wall_seconds: float) -> SimulationResult:
        """The result of the run."""
        return SimulationResult(
            scenario=self._scenario, breach=breach, digest=self._trace.digest, counts=dict(self._trace.counts),
            checks=self.invariants.checks, lives=self._lives, rounds=self._rounds_done, known_after=self._known_after,
            longest_call=self.invariants.longest_call, virtual_seconds=self._ended, wall_seconds=wall_seconds,
        )  # fmt: skip

    # ---------------------------------------------------------------- faults

    async def _course(self) -> None:
        rng = self._rng("starts")
        for place in self._places:
            self._start(place, after=rng.uniform(0, 3 * self._scenario.timing.beat))
        for blow in fault_schedule.blows(self._scenario):
            await asyncio.sleep(max(0.0, blow.at - self._loop.time()))
            self._strike(blow)
        await self._settle()

    async def _settle(self) -> None:
        scenario = self._scenario
        await asyncio.sleep(max(0.0, scenario.storm_ends - self._loop.time()))
        while self._loop.time() < scenario.seconds:
            await asyncio.sleep(min(scenario.timing.beat, scenario.seconds - self._loop.time()))
            if self._known_after != self._known_after and not self.invariants.strangers(self._up()):
                self._known_after = self._loop.time() - scenario.storm_ends
        self.invariants.reunion(self._up())

    def _up(self) -> list[Life]:
        return [place.life for place in self._places if place.life is not None and place.life.up]

    def _strike(self, blow: fault_schedule.Blow) -> None:
        self._trace.note(self._loop.time(), "storm", repr(blow), kind=type(blow).__name__.lower())
        match blow:
            case fault_schedule.Return(place=number) if self._places[number].life is None:
                self._return(self._places[number], blow)
            case fault_schedule.Part(half=half):
                self._half = frozenset(half)
                self._part()
            case fault_schedule.Meet():
                self._half = frozenset()
                self._network.join()
                self._lan.announce_all()
            case fault_schedule.ConditionsChange(weather=weather):
                self._network.faults = weather
            case fault_schedule.Personal(place=number) if life := self._awake(number):
                self._befall(self._places[number], life, blow)

    def _befall(self, place: Place, life: Life, blow: fault_schedule.Personal) -> None:
        match blow:
            case fault_schedule.Kill():
                self._network.cut(life.address)
                self._kill(place, life)
            case fault_schedule.Crash():
                self._silence(life)
                self._kill(place, life)
            case fault_schedule.Leave():
                life.leaving.set()
                place.life = None
            case fault_schedule.Sleep(seconds=seconds):
                self._loop.freeze(life.machine)
                self._loop.call_later(seconds, self._loop.thaw, life.machine)
            case fault_schedule.Flap(seconds=seconds):
                self._lan.flap(life.address, seconds)

    def _awake(self, number: int) -> Life | None:
        life = self._places[number].life
        return life if life is not None and life.up and life.machine.asleep_since is None else None

    def _kill(self, place: Place, life: Life) -> None:
        """Cut the peer and its disk off from this moment on. The orderly end of its tasks that follows has no effect on
        others."""
        life.dead = True
        self._lan.vanished(life.address)
        life.store.unplug()
        assert life.task is not None
        life.task.cancel()
        place.life = None

    def _silence(self, life: Life) -> None:
        """Drop everything that the peer sends, but tell the others that its calls have ended."""
        others = [other for other in self._addresses if other != life.address]

        def between(faults: Faults | None) -> None:
            for other in others:
                self._network.between(life.address, other, faults)

        between(Faults(loss=1.0))
        assert life.task is not None
        life.task.add_done_callback(lambda task: between(None))

    def _return(self, place: Place, blow: fault_schedule.Return) -> None:
        if blow.anew:
            place.installed += 1
            place.disk.wipe()
        else:
            place.disk.restore(blow.older)
        self._start(place, after=0.0)

    def _part(self) -> None:
        """Split the network by places, so that a peer that starts meanwhile belongs to its place's half."""
        halves: tuple[list[Address], list[Address]] = ([], [])
        for address, place in self._addresses.items():
            halves[place in self._half].append(address)
        self._network.join()
        self._network.part(*halves)

    def _apart(self, one: Address, other: Address) -> bool:
        return bool(self._half) and (self._addresses[one] in self._half) != (self._addresses[other] in self._half)

    # ---------------------------------------------------------------- lives

    def _start(self, place: Place, *, after: float) -> None:
        place.lives += 1
        self._lives += 1
        life = place.life = self._born(place)
        life.task = self._tasks.create_task(
            self._live(life, after), name=f"{place.name}:{place.lives}", context=on(life.machine)
        )

    def _born(self, place: Place) -> Life:
        scenario, timing = self._scenario, self._scenario.timing
        who = f"{scenario.seed}/{place.name}/{place.installed}"
        identity = Identity.of_seed(f"simulation/{who}")
        session = hashlib.sha256(f"session/{who}/{place.lives}".encode()).hexdigest()[:16]
        rng = self._rng(f"{place.name}/{place.lives}")
        inner = self._network.transport(timing=timing, limits=scenario.limits)
        strategy = registry.make(scenario.strategy)
        store: list[DiskStore] = []

        def compute(room: str) -> Compute:
            return Unhurried(self._rng(f"{place.name}/{place.lives}/{room}"), _COMPUTING[room])

        def keep(*model: object) -> DiskStore:
            return store[0]

        life: Life
        learner = cast.learner(scenario.seed, place.number)
        store.append(DiskStore(place.disk, learner, strategy))
        peer = Peer(
            learner,
            strategy=strategy,
            name=place.name,
            record=lambda event: life.record(event),
            network=Network(group_tag="simulation", timing=timing, limits=scenario.limits),
            sharing=Sharing(most_providers=_PROVIDERS),
            internals=Internals(
                identity=identity,
                transport=Witnessed(inner, timing, lambda what, bound: self.invariants.opened(life, what, bound)),
                discovery=[self._lan.door(inner.address)],
                compute=compute,
                store=keep,
                session=session,
            ),
        )
        life = Life(
            name=place.name, peer=peer, identity=identity, session=session, machine=Machine(place.name),
            address=inner.address, heard=self._heard, draw=rng, store=store[0],
        )  # fmt: skip
        self._addresses[inner.address] = place.number
        if self._half:
            self._part()
        return life

    async def _live(self, life: Life, after: float) -> None:
        await asyncio.sleep(after)
        try:
            async with life.peer:
                life.peer._assembly.directory.listen(lambda change: self.invariants.change(life, change))
                async with asyncio.TaskGroup() as tasks:
                    rounds = tasks.create_task(self._rounds(life), name=f"{life.name}:rounds")
                    await life.leaving.wait()
                    rounds.cancel()
                gone = self.invariants.opened(life, "leaving", _LEAVING)
            gone()
        except Exception as exc:  # noqa: BLE001  any exception of a peer is a finding
            if not life.dead:
                cause = sole_cause(exc) if isinstance(exc, BaseExceptionGroup) else exc
                self.invariants.breach("quiet", f"{life.name} failed: {cause!r}")
        finally:
            self.invariants.forget(life)

    async def _rounds(self, life: Life) -> None:
        pause = self._scenario.between_rounds
        await asyncio.sleep(life.draw.uniform(0, pause))
        while True:
            ended = self.invariants.opened(life, "a round", self._round_bound(life))
            try:
                await life.peer.run(1)
            finally:
                ended()
            self._rounds_done += 1
            await asyncio.sleep(pause * life.draw.uniform(0.5, 1.5))

    def _round_bound(self, life: Life) -> float:
        """Longest duration of a round in seconds. Failing providers cost one stall window in all, because they are
        asked at once."""
        schedule = life.peer.strategy.schedule
        exchanges = sum(isinstance(phase, Exchange) for phase in (*schedule.first, *schedule.cycle))
        return _CALLS_A_ROUND * sum(_COMPUTING.values()) + exchanges * call_bound(self._scenario.timing)

    def _heard(self, life: Life, event: Event) -> None:
        self._trace.event(self._loop.time(), life.name, event)
        self.invariants.event(life, event)

    def _rng(self, what: str) -> random.Random:
        return random.Random(f"{self._scenario.seed}/{what}")
