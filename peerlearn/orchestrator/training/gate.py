"""The gate: a transfer is measured on held-out private data, and kept or rolled back."""

from dataclasses import dataclass
from math import isfinite
from typing import Literal

from peerlearn.errors import ConfigError

_ROUNDING = 1e-9
"""A fall by just the tolerance is kept: 0.7 - 0.8 is a little less than -0.1 in binary fractions. Accuracies on fewer
than a million samples that differ at all differ by more."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a transfer is kept, with the metric before and after it, and the reason in a sentence."""

    kept: bool
    before: float
    after: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Keeps a transfer whose `metric` on held-out private data falls by at most `tolerance`.

    `balanced` (mean recall over the classes present) is the default: a method that learns others' classes gives up
    a little of its own, and plain accuracy on private data would call that harm. `off` keeps everything finite.
    """

    metric: Literal["balanced", "accuracy", "off"] = "balanced"
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        if self.metric not in ("balanced", "accuracy", "off"):
            raise ConfigError(f"gate: metric {self.metric!r} is not one of balanced, accuracy, off")
        if not 0 <= self.tolerance <= 1:
            raise ConfigError(f"gate: tolerance must lie between 0 and 1, not {self.tolerance}")

    def judge(self, before: float, after: float) -> Verdict:
        """nan means: nothing was held out, so there is nothing to judge by."""
        if self.metric == "off" or not isfinite(before):
            return Verdict(
                True, before, after, "not measured: " + ("gate off" if self.metric == "off" else "nothing held out")
            )
        if not isfinite(after):
            return Verdict(False, before, after, f"{self.metric} accuracy on held-out data is not finite any more")
        change = after - before
        kept = change >= -self.tolerance - _ROUNDING
        return Verdict(
            kept, before, after,
            f"{self.metric} accuracy on held-out data {before:.3f} -> {after:.3f} ({change:+.3f}, "
            f"{'within' if kept else 'beyond'} the tolerance of {self.tolerance:g})",
        )  # fmt: skip
