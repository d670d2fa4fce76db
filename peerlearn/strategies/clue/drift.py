"""Drift detection on the error of a stream, and detection of the recovery of the peer's own model.

CLUE (Daga et al.), section 5.1: drift is when the rolling mean of the error over W batches exceeds a threshold. ADWIN,
Page-Hinkley and DDM, which the paper names as alternatives, are river's: pip install 'peerlearn[drift]'.
"""

import importlib
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from peerlearn.errors import ConfigError, ExtraMissing

Method = Literal["threshold", "adwin", "page-hinkley", "ddm"]
"""Drift detectors: the rolling mean against a threshold, or one of river's."""
Change = Literal["", "drift", "recovered"]
"""What one request batch changed; empty: nothing."""


class Watch:
    """Follows two errors per request batch: that of the answers given, and that of the peer's own model alone.

    `base` is the mean error over the `reference` batches that ended `window` batches ago; it is frozen during drift. By
    the method threshold, drift means that the mean of the last `window` errors exceeds `threshold`, or base + `margin`
    if that is None. By any other method, river's detector finds that the stream of single mistakes has become worse.
    Recovery means that the mean of the last `window` errors of the own model is at most base + `tolerance` (before
    there is a base, at most the threshold). Raises ConfigError.

    A wider `window` gives fewer false alarms, and later true ones. A larger `margin` calls for help less often.
    """

    def __init__(
        self,
        method: Method = "threshold",
        *,
        window: int = 3,
        reference: int = 10,
        margin: float = 0.1,
        threshold: float | None = None,
        tolerance: float = 0.02,
    ) -> None:
        if method not in get_args(Method):
            raise ConfigError(f"drift: detector {method!r} is not one of {', '.join(get_args(Method))}")
        if window < 1 or reference < 1:
            raise ConfigError(f"drift: windows last at least one batch, not {window} and {reference}")
        if margin <= 0 or not 0 <= tolerance < margin:
            raise ConfigError(f"drift: 0 <= tolerance < margin must hold, not {tolerance} and {margin}")
        if threshold is not None and not 0 < threshold < 1:
            raise ConfigError(f"drift: the threshold is an error between 0 and 1, not {threshold}")
        self._window, self._reference = window, reference
        self._margin, self._threshold, self._tolerance = margin, threshold, tolerance
        self._detector = None if method == "threshold" else _River(method)
        self._errors: list[float] = []
        self._own: list[float] = []
        self.base = math.nan
        self.drifting = False

    @property
    def limit(self) -> float:
        """A rolling error above this is too high; nan while there is no base and no threshold."""
        return self.base + self._margin if self._threshold is None else self._threshold

    @property
    def high(self) -> bool:
        """True if the answers given are wrong too often now."""
        return _rolling(self._errors, self._window) > self.limit

    @property
    def level(self) -> float:
        """Error up to which the own model counts as recovered."""
        return self.limit if math.isnan(self.base) else self.base + self._tolerance

    @property
    def back(self) -> bool:
        """True if the own model is recovered now."""
        return _rolling(self._own, self._window) <= self.level

    def observe(self, wrong: Tensor, own_wrong: Tensor) -> Change:
        """Add one request batch. `wrong`, `own_wrong`: bool (B,), the requests answered wrongly by the ensemble and by
        the own model. Returns the change."""
        self._errors.append(float(wrong.double().mean()))
        self._own.append(float(own_wrong.double().mean()))
        del self._own[: -self._window]
        del self._errors[: -(self._window + self._reference)]
        if self.drifting:
            if not self.back:
                return ""
            self.drifting = False
            self._errors.clear()
            if self._detector is not None:
                self._detector.reset()
            return "recovered"
        if len(self._errors) == self._window + self._reference:
            self.base = sum(self._errors[: self._reference]) / self._reference
        self.drifting = self._alarm(wrong)
        return "drift" if self.drifting else ""

    def _alarm(self, wrong: Tensor) -> bool:
        if self._detector is None:
            return self.high
        alarm = self._detector.observe(wrong)
        return alarm and not math.isnan(self.limit)

    def state_dict(self) -> dict[str, Any]:
        seen = torch.empty(0, dtype=torch.bool) if self._detector is None else self._detector.seen
        return {
            "errors": list(self._errors),
            "own": list(self._own),
            "base": self.base,
            "drifting": self.drifting,
            "seen": seen,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._errors, self._own = list(state["errors"]), list(state["own"])
        self.base, self.drifting = state["base"], state["drifting"]
        if self._detector is not None:
            self._detector.reset()
            self._detector.observe(state["seen"])


class _River:
    """One of river's detectors, fed one number per request: 1 for a mistake, 0 otherwise. Its state cannot be saved
    without pickle. What it has seen since its last reset is kept instead (a byte per request), and fed to it again."""

    def __init__(self, method: Method) -> None:
        self._method = method
        self.reset()

    @property
    def seen(self) -> Tensor:
        """Mistakes since the last reset, bool (N,)."""
        return torch.cat(self._fed) if self._fed else torch.empty(0, dtype=torch.bool)

    def observe(self, wrong: Tensor) -> bool:
        """Feed mistakes, bool (B,). True if the detector found a change, and the mean after it is the higher one."""
        self._fed.append(wrong.clone())
        alarm = False
        for mistake in wrong.tolist():
            before = self._mean()
            self._detector.update(int(mistake))
            alarm |= bool(self._detector.drift_detected) and (math.isnan(before) or self._mean() > before)
        return alarm

    def reset(self) -> None:
        self._detector = _made(self._method)
        self._fed: list[Tensor] = []

    def _mean(self) -> float:
        """ADWIN finds changes in both directions and tells its mean. The others find increases only: nan."""
        return float(self._detector.estimation) if self._method == "adwin" else math.nan


def _made(method: Method) -> Any:
    try:
        drift = importlib.import_module("river.drift")
        binary = importlib.import_module("river.drift.binary")
    except ImportError as exc:
        raise ExtraMissing(
            f"drift: detector {method!r} is river's, which is not installed: pip install 'peerlearn[drift]'"
        ) from exc
    if method == "adwin":
        return drift.ADWIN()
    return drift.PageHinkley(mode="up") if method == "page-hinkley" else binary.DDM()


def _rolling(errors: list[float], window: int) -> float:
    """Mean of the last `window` errors; nan when there are fewer."""
    return sum(errors[-window:]) / window if len(errors) >= window else math.nan
