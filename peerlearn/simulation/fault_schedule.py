"""The faults of a run and their times, drawn from the seed before the run begins. Pure functions."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from peerlearn.simulation.scenario import Scenario
from peerlearn.transport.faults.model import Faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """A fault, `at` seconds after the start. Places are numbered from 0. A fault is skipped when its peer is not in a
    state for it."""

    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Personal(Blow):
    """A fault of one peer, if that peer is up and awake."""

    place: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill(Personal):
    """The power of the peer's machine fails: no goodbye, and its connections go silent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash(Personal):
    """The peer's program is killed: no goodbye, but its connections break at once, because the machine is still up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave(Personal):
    """The peer says goodbye and leaves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Return(Blow):
    """The peer starts again at another address, with the state of `older` snapshots before the last. `anew`: its
    machine was reinstalled, so it starts with a new identity and without state."""

    place: int
    older: int = 0
    anew: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep(Personal):
    """A laptop is closed: nothing on it runs for `seconds`, then everything continues."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Part(Blow):
    """The network splits into two halves that cannot hear each other."""

    half: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Meet(Blow):
    """The halves are joined again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flap(Personal):
    """Discovery loses a peer, and finds it again after `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionsChange(Blow):
    """Sets how frames travel from now on."""

    weather: Faults


_CROWD = 16
"""Number of peers above which each is hit less often, so that the total rate of faults stays about the same."""
FAIR = Faults(delay=0.002, jitter=0.01)
"""A good day on a LAN: seconds of delay and jitter, no loss."""


def blows(scenario: Scenario) -> tuple[Blow, ...]:
    """All faults of a run in order of time; the last one is at `storm_ends` at the latest."""
    clear = ConditionsChange(at=0.0, weather=FAIR)
    if scenario.faults == "none":
        return (clear,)
    rng = random.Random(f"storm/{scenario.seed}")
    found: list[Blow] = [clear, ConditionsChange(at=scenario.storm_ends, weather=FAIR)]
    for place in range(scenario.peers):
        found += _fate(scenario, place, rng)
    if scenario.faults == "storm":
        found += _partings(scenario, rng)
        found += _weathers(scenario, rng)
    return tuple(sorted(found, key=lambda blow: blow.at))


def _fate(scenario: Scenario, place: int, rng: random.Random) -> Iterator[Blow]:
    """The faults of one peer, at random intervals. A peer that went away returns before the storm ends. With many peers
    each is hit less often: some peer is hit all the time even so."""
    beat, end, calm = scenario.timing.beat, scenario.storm_ends, max(1.0, scenario.peers / _CROWD)
    kinds = ("kill", "crash", "leave", "sleep", "sleep", "flap") if scenario.faults == "storm" else ("leave", "flap")
    at = rng.uniform(3, 25) * beat
    while True:
        kind = rng.choice(kinds)
        lasts = _lasting(rng) * beat
        if at + lasts >= end:
            return
        match kind:
            case "kill":
                yield Kill(at=at, place=place)
            case "crash":
                yield Crash(at=at, place=place)
            case "leave":
                yield Leave(at=at, place=place)
            case "sleep":
                yield Sleep(at=at, place=place, seconds=lasts)
            case "flap":
                yield Flap(at=at, place=place, seconds=lasts)
        if kind in ("kill", "crash", "leave"):
            older = rng.choice((0, 0, 0, 1, 2)) if scenario.faults == "storm" else 0
            anew = scenario.faults == "storm" and rng.random() < 0.1
            yield Return(at=at + lasts, place=place, older=older, anew=anew)
        at += lasts + rng.uniform(5, 50) * calm * beat


def _lasting(rng: random.Random) -> float:
    """A duration in beats: too short to be noticed, long enough to be suspected, or long enough to be given up."""
    return rng.choice((rng.uniform(0.01, 2), rng.uniform(2, 8), rng.uniform(8, 20)))


def _partings(scenario: Scenario, rng: random.Random) -> Iterator[Blow]:
    beat, at = scenario.timing.beat, rng.uniform(8, 40) * scenario.timing.beat
    while True:
        lasts = _lasting(rng) * beat
        if at + lasts >= scenario.storm_ends:
            return
        members = rng.sample(range(scenario.peers), scenario.peers // 2)
        yield Part(at=at, half=tuple(sorted(members)))
        yield Meet(at=at + lasts)
        at += lasts + rng.uniform(10, 50) * beat


def _weathers(scenario: Scenario, rng: random.Random) -> Iterator[Blow]:
    """Fair and foul conditions in turn."""
    beat, at = scenario.timing.beat, rng.uniform(3, 40) * scenario.timing.beat
    while True:
        lasts = rng.uniform(2, 20) * beat
        if at + lasts >= scenario.storm_ends:
            return
        foul = Faults(
            delay=rng.uniform(0.01, 1), jitter=rng.uniform(0, 5), loss=rng.choice((0, 0.01, 0.05)),
            duplication=rng.choice((0, 0.02)), reordering=rng.choice((0, 0.02)), corruption=rng.choice((0, 0.02)),
            bandwidth=rng.choice((None, 100_000)),
        )  # fmt: skip
        yield ConditionsChange(at=at, weather=foul)
        yield ConditionsChange(at=at + lasts, weather=FAIR)
        at += lasts + rng.uniform(5, 50) * beat
