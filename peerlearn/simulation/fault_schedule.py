"""What befalls the peers, and when: drawn from the seed beforehand, so that a run is known before it begins. Pure."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from peerlearn.simulation.scenario import Scenario
from peerlearn.transport.faults.model import Faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """`at`: seconds from the start. Places are numbered from 0; who is not in a state for it is passed over."""

    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Personal(Blow):
    """It befalls one peer, if that is up and awake."""

    place: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill(Personal):
    """The power of this peer's machine fails: no goodbye, and nothing of it is heard any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash(Personal):
    """Its program is killed: no goodbye, but its connections break at once, since the machine lives on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave(Personal):
    """It says goodbye and leaves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Return(Blow):
    """It starts again, at another address, with the state of `older` snapshots before the last; with `anew` as somebody
    else with nothing kept: the machine was installed again."""

    place: int
    older: int = 0
    anew: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep(Personal):
    """A laptop is closed: nothing on it runs for so long; then it goes on as if nothing had happened."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Part(Blow):
    """The network falls into two halves, which hear nothing of each other."""

    half: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Meet(Blow):
    """The halves are one again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flap(Personal):
    """Discovery forgets a peer, and finds it again."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionsChange(Blow):
    """How frames travel from now on."""

    weather: Faults


_CROWD = 16
FAIR = Faults(delay=0.002, jitter=0.01)
"""A good day on a LAN."""


def blows(scenario: Scenario) -> tuple[Blow, ...]:
    """All of them, in order of time, the last one before `storm_ends`."""
    clear = ConditionsChange(at=0.0, weather=FAIR)
    if scenario.faults == "none":
        return (clear,)
    draw = random.Random(f"storm/{scenario.seed}")
    found: list[Blow] = [clear, ConditionsChange(at=scenario.storm_ends, weather=FAIR)]
    for place in range(scenario.peers):
        found += _fate(scenario, place, draw)
    if scenario.faults == "storm":
        found += _partings(scenario, draw)
        found += _weathers(scenario, draw)
    return tuple(sorted(found, key=lambda blow: blow.at))


def _fate(scenario: Scenario, place: int, draw: random.Random) -> Iterator[Blow]:
    """One blow after another, as far apart as is drawn; whoever went comes back before the storm ends. Where there are
    many peers each is hit less often: one of them is hit all the time as it is."""
    beat, end, calm = scenario.timing.beat, scenario.storm_ends, max(1.0, scenario.peers / _CROWD)
    kinds = ("kill", "crash", "leave", "sleep", "sleep", "flap") if scenario.faults == "storm" else ("leave", "flap")
    at = draw.uniform(3, 25) * beat
    while True:
        kind = draw.choice(kinds)
        lasts = _lasting(draw) * beat
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
            older = draw.choice((0, 0, 0, 1, 2)) if scenario.faults == "storm" else 0
            anew = scenario.faults == "storm" and draw.random() < 0.1
            yield Return(at=at + lasts, place=place, older=older, anew=anew)
        at += lasts + draw.uniform(5, 50) * calm * beat


def _lasting(draw: random.Random) -> float:
    """In beats: at once, before anybody has noticed; after some doubt; after it was given up."""
    return draw.choice((draw.uniform(0.01, 2), draw.uniform(2, 8), draw.uniform(8, 20)))


def _partings(scenario: Scenario, draw: random.Random) -> Iterator[Blow]:
    beat, at = scenario.timing.beat, draw.uniform(8, 40) * scenario.timing.beat
    while True:
        lasts = _lasting(draw) * beat
        if at + lasts >= scenario.storm_ends:
            return
        members = draw.sample(range(scenario.peers), scenario.peers // 2)
        yield Part(at=at, half=tuple(sorted(members)))
        yield Meet(at=at + lasts)
        at += lasts + draw.uniform(10, 50) * beat


def _weathers(scenario: Scenario, draw: random.Random) -> Iterator[Blow]:
    """Fair and foul in turn."""
    beat, at = scenario.timing.beat, draw.uniform(3, 40) * scenario.timing.beat
    while True:
        lasts = draw.uniform(2, 20) * beat
        if at + lasts >= scenario.storm_ends:
            return
        foul = Faults(
            delay=draw.uniform(0.01, 1), jitter=draw.uniform(0, 5), loss=draw.choice((0, 0.01, 0.05)),
            duplication=draw.choice((0, 0.02)), reordering=draw.choice((0, 0.02)), corruption=draw.choice((0, 0.02)),
            bandwidth=draw.choice((None, 100_000)),
        )  # fmt: skip
        yield ConditionsChange(at=at, weather=foul)
        yield ConditionsChange(at=at + lasts, weather=FAIR)
        at += lasts + draw.uniform(5, 50) * beat
