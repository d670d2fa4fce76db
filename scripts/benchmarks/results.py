"""What was measured, and whether it reaches its bar. Values only."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

MB = 1e6


@dataclass(frozen=True, slots=True)
class Bar:
    """A bound that a figure is held to, and the figure."""

    what: str
    value: float
    bound: float
    kind: Literal["at least", "at most"] = "at least"
    runs: tuple[float, ...] = ()
    """Of several runs, of which `value` is the median."""

    @property
    def reached(self) -> bool:
        return self.value >= self.bound if self.kind == "at least" else self.value <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.kind == "at least" else "<="
        verdict = "reached" if self.reached else "not reached"
        spread = f", {brief(min(self.runs))} to {brief(max(self.runs))}" if self.runs else ""
        return f"{verdict}: {self.what} {brief(self.value)}{spread} ({sign} {brief(self.bound)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One row. Ratios are the medians of paired ratios: 1 is as fast as the limit, 0.5 takes twice its time."""

    name: str
    seconds: float | None = None
    """Median of one exchange, call or round."""
    n: int = 0
    """Repetitions that the median is of."""
    ratio_to_tcp: float | None = None
    ratio_to_aio: float | None = None
    extra_rss_mb_provider: float | None = None
    """Peak resident memory beyond what was there before and the tensors themselves, 10^6 bytes."""
    extra_rss_mb_consumer: float | None = None
    figures: Mapping[str, float | str] = field(default_factory=dict)
    """What else was seen, by name and unit: "p99_ms", "gb_per_s"."""
    bars: tuple[Bar, ...] = ()
    skipped: str = ""
    """Why nothing was measured."""

    def as_json(self) -> dict[str, Any]:
        bars = [
            {
                "what": b.what, "value": b.value, "bound": b.bound, "kind": b.kind, "reached": b.reached,
                **({"runs": list(b.runs)} if b.runs else {}),
            }
            for b in self.bars
        ]  # fmt: skip
        return {
            "name": self.name, "seconds": self.seconds, "n": self.n, "ratio_to_tcp": self.ratio_to_tcp,
            "ratio_to_aio": self.ratio_to_aio, "extra_rss_mb_provider": self.extra_rss_mb_provider,
            "extra_rss_mb_consumer": self.extra_rss_mb_consumer, "figures": dict(self.figures), "bars": bars,
            "skipped": self.skipped,
        }  # fmt: skip


def combined(runs: Sequence[Result]) -> Result:
    """One row of several runs of a figure: the median of each number. A run that was skipped does not count beside one
    that was not."""
    taken = [run for run in runs if not run.skipped] or runs
    first = taken[0]
    if len(taken) == 1:
        return first
    bars = [[run.bars[number].value for run in taken] for number in range(len(first.bars))]
    return replace(
        first,
        seconds=_middle([run.seconds for run in taken]),
        n=sum(run.n for run in taken),
        ratio_to_tcp=_middle([run.ratio_to_tcp for run in taken]),
        ratio_to_aio=_middle([run.ratio_to_aio for run in taken]),
        extra_rss_mb_provider=_middle([run.extra_rss_mb_provider for run in taken]),
        extra_rss_mb_consumer=_middle([run.extra_rss_mb_consumer for run in taken]),
        figures={
            name: value if isinstance(value, str) else median(_numbers([run.figures.get(name) for run in taken]))
            for name, value in first.figures.items()
        },
        bars=tuple(
            replace(bar, value=median(values), runs=tuple(values)) for bar, values in zip(first.bars, bars, strict=True)
        ),
    )


def _middle(values: Sequence[float | None]) -> float | None:
    there = _numbers(values)
    return median(there) if there else None


def _numbers(values: Sequence[float | str | None]) -> list[float]:
    return [value for value in values if isinstance(value, (int, float))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def paired(limit: Sequence[float], ours: Sequence[float]) -> float:
    """How near ours comes to the limit: the median over rounds of limit's seconds / our seconds."""
    return median([theirs / mine for theirs, mine in zip(limit, ours, strict=True)])


def brief(value: float) -> str:
    """Three digits, as people read them."""
    if value == 0 or 0.001 <= abs(value) < 10_000:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{value:.2e}"
