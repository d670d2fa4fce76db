"""Lasting: thousands of exchanges, whole and broken, and what they leave behind."""

from typing import Any

from benchmarks.measuring import Scale
from benchmarks.processes import Pair, Stage, pair
from benchmarks.results import MB, Bar, Result

_GROWTH_MB = 20.0


async def soak(stage: Stage, scale: Scale) -> Result:
    """10,000 exchanges of 300 kB over one connection; quick: 1,500."""
    return await _endured(stage, "soak-exchanges", "state-300kb", "whole", 500, scale.times(10_000, 1_500))


async def cancelled(stage: Stage, scale: Scale) -> Result:
    """2,000 exchanges of 4 MB, half of them cancelled at a random moment and half on a wire that is cut; quick: 300.

    So many do not come through as the random moments decide: the others were faster.
    """
    warm = scale.times(500, 100)
    return await _endured(stage, "cancelled", "floats-4mb", "broken", warm, scale.times(2_000, 300))


async def _endured(stage: Stage, name: str, payload: str, how: str, warm: int, times: int) -> Result:
    async with pair(stage.group) as fresh:
        await fresh.hold(payload, raw=False)
        before = await _held(fresh, payload, warm, how)
        after = await _held(fresh, payload, times - warm, how)
    sides = ("provider", "consumer")
    grown = {who: (after[who]["resident"] - before[who]["resident"]) / MB for who in sides}
    left = {
        f"{what}_left_{who}": float(max(0, after[who][what] - before[who][what]))
        for what in ("descriptors", "tasks")
        for who in sides
    }
    bars = [Bar(f"MB grown at the {who} after the first {warm}", grown[who], _GROWTH_MB, "at most") for who in sides]
    bars.append(Bar("descriptors and tasks left", sum(left.values()), 0, "at most"))
    return Result(
        name=name, n=times, extra_rss_mb_provider=grown["provider"], extra_rss_mb_consumer=grown["consumer"],
        figures={**left, "did_not_come_through": float(before["consumer"]["failed"] + after["consumer"]["failed"])},
        bars=tuple(bars),
    )  # fmt: skip


async def _held(fresh: Pair, payload: str, times: int, how: str) -> dict[str, Any]:
    consumer = await fresh.consumer.do("endure", payload=payload, times=times, how=how)
    return {"consumer": consumer, "provider": await fresh.provider.do("held")}
