"""How a figure is taken: lanes in turn, so that each is compared with its neighbours in time; memory in processes of
its own, so that no other lane has left anything there."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from benchmarks.names import STATE_300KB
from benchmarks.processes import Pair, Stage, pair
from benchmarks.results import MB, Result

Lane = Callable[[], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Scale:
    """`quick`: fewer repetitions, and smaller payloads where that is said."""

    quick: bool = False

    def times(self, full: int, quick: int) -> int:
        return quick if self.quick else full


Measure = Callable[[Stage, Scale], Awaitable[Result]]


async def in_turn(lanes: Mapping[str, Lane], rounds: int, *, warm: int = 1) -> dict[str, list[float]]:
    """Seconds by lane, one per round. Every round begins with another lane; `warm` rounds before are not counted."""
    names = list(lanes)
    took: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warm, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seconds = await lanes[name]()
            if number >= 0:
                took[name].append(seconds)
    return took


def lanes_of(pair: Pair, payload: str, nbytes: int, *names: str) -> dict[str, Lane]:
    def lane(name: str) -> Lane:
        return lambda: pair.lane(name, payload, nbytes)

    return {name: lane(name) for name in names}


@dataclass(frozen=True, slots=True)
class Extra:
    """Megabytes (10^6) at the peak, beyond what was held before and the tensors; None where the system does not say."""

    provider: float | None
    consumer: float | None


async def extra_memory(group: str, payload: str, lane: str, times: int, *, tuned: bool = True) -> Extra:
    """Of `times` exchanges in two new processes, after one of 300 kB that has loaded what is loaded once."""
    async with pair(group, tuned=tuned) as fresh:
        nbytes = await fresh.hold(payload, raw=False)
        await fresh.lane(lane, STATE_300KB)
        before = [await side.do("mark") for side in (fresh.provider, fresh.consumer)]
        for _ in range(times):
            await fresh.lane(lane, payload, nbytes)
        after = [await side.do("held") for side in (fresh.provider, fresh.consumer)]
    if not after[0]["peak"]:
        return Extra(None, None)
    grown = [(end["peak"] - start["resident"]) / MB for start, end in zip(before, after, strict=True)]
    return Extra(max(0.0, grown[0]), max(0.0, grown[1] - nbytes / MB))
