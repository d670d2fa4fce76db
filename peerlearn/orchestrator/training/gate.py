"""Gate: decides from the metric on held-out private data whether a transfer is kept or rolled back."""

from dataclasses import dataclass
from math import isfinite
from typing import Literal

from peerlearn.errors import ConfigError

_ROUNDING = 1e-9
"""Allowance for rounding, so that a fall by exactly the tolerance is kept: in binary fractions 0.7 - 0.8 is a little
less than -0.1. Two different accuracies on fewer than a million samples differ by more than this."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Decision on a transfer: the metric before and after it, from 0 to 1 (nan: not measured), and the reason."""

    kept: bool
    before: float
    after: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Keeps a transfer whose `metric` on held-out private data falls by at most `tolerance`. Raises ConfigError for
    values that make no sense."""

    metric: Literal["balanced", "accuracy", "off"] = "balanced"
    """balanced: mean recall over the classes present. accuracy: share of correct samples. off: every transfer is kept.
    The default is balanced because learning the classes of others costs a little on one's own, and plain accuracy on
    private data would call that harm."""
    tolerance: float = 0.1
    """Largest fall of the metric that is kept, from 0 to 1. Smaller: useful transfers are rolled back for the little
    that they cost on own classes. Larger: harmful ones are kept."""

    def __post_init__(self) -> None:
        if self.metric not in ("balanced", "accuracy", "off"):
            raise ConfigError(f"gate: metric {self.metric!r} is not one of balanced, accuracy, off")
        if not 0 <= self.tolerance <= 1:
            raise ConfigError(f"gate: tolerance must lie between 0 and 1, not {self.tolerance}")

    def judge(self, before: float, after: float) -> Verdict:
        """The verdict on a transfer, from the metric before and after it. `before` is nan if nothing was held out; the
        transfer is then kept. A transfer whose metric is no longer finite is not kept."""
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
