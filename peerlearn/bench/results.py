"""What was measured, and whether it reaches its bar. Values only."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

MB = 1e6


@dataclass(frozen=True, slots=True)
class Bar:
    """A bound that a figure is held to, and the figure."""

    what: str
    value: float
    bound: float
    kind: Literal["at least", "at most"] = "at least"

    @property
    def reached(self) -> bool:
        return self.value >= self.bound if self.kind == "at least" else self.value <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.kind == "at least" else "<="
        verdict = "reached" if self.reached else "not reached"
        return f"{verdict}: {self.what} {brief(self.value)} ({sign} {brief(self.bound)})"


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
            {"what": b.what, "value": b.value, "bound": b.bound, "kind": b.kind, "reached": b.reached}
            for b in self.bars
        ]  # fmt: skip
        return {
            "name": self.name, "seconds": self.seconds, "n": self.n, "ratio_to_tcp": self.ratio_to_tcp,
            "ratio_to_aio": self.ratio_to_aio, "extra_rss_mb_provider": self.extra_rss_mb_provider,
            "extra_rss_mb_consumer": self.extra_rss_mb_consumer, "figures": dict(self.figures), "bars": bars,
            "skipped": self.skipped,
        }  # fmt: skip


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
