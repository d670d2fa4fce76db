"""The dial: where between its own classes and everybody's a trained model stands, chosen anew at each prediction.

A model trained on skewed data has learned p(y | x) under its own class frequencies. Multiplying its probabilities by
(wanted frequency / own frequency) moves it to other frequencies without training (Saerens et al. 2002; Menon et al.
2021, logit adjustment). How much of the own frequencies a model has really taken in depends on the method that trained
it (an average of everybody's models has taken in little), so that is fitted on held-out local data.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from peerlearn.errors import ConfigError

Prior = Literal["local", "uniform"] | Mapping[int, float] | float
"""How often each class is expected where the prediction is used. `local`: as often as in the peer's own data, which is
what the model says by itself. `uniform`: all classes equally often. A mapping from class to weight: in these
proportions, classes that are not named never. A number: so many nats are added to the log-probabilities of one's own
classes, 0 being `local`; less opens the model to others' classes, more closes it."""

_TINY = 1e-12
_STRONGEST = 4.0
_STEPS = 60


@dataclass(frozen=True, slots=True, eq=False)
class Dial:
    """`counts`: labelled samples seen per class, (C,); all zero: nothing known, and nothing is corrected.

    `strength`: the share of these frequencies that is in the model's predictions: 1, all of it, until `calibrated`.
    """

    counts: Tensor
    strength: float = 1.0

    @classmethod
    def of(cls, histogram: Sequence[int]) -> "Dial":
        return cls(torch.tensor(histogram, dtype=torch.float64))

    @property
    def own(self) -> Tensor:
        """Classes of which at least an equal share has been seen, bool (C,)."""
        return self.counts >= self.counts.mean()

    @property
    def log_prior(self) -> Tensor:
        """Of the classes in one's own data, float64 (C,), one sample of each added so that none is impossible."""
        smoothed = self.counts + 1
        return (smoothed / smoothed.sum()).log() if bool(self.counts.any()) else torch.zeros_like(self.counts)

    def turned(self, probabilities: Tensor, prior: Prior) -> Tensor:
        """Probabilities (B, C) under the expected class frequencies. Raises ConfigError for a prior that is none."""
        offset = self._offset(prior)
        if offset is None:
            return probabilities
        corrected = probabilities.double().clamp(min=_TINY).log() + offset
        return corrected.softmax(dim=1).to(probabilities.dtype)

    def calibrated(self, probabilities: Tensor, y: Tensor) -> "Dial":
        """The same dial with the strength at which, all classes counting equally, the true classes of held-out samples
        become likeliest: probabilities (N, C) and labels int64 (N,). Without samples of two classes it stays."""
        present = y.unique()
        if len(present) < 2 or not bool(self.counts.any()):
            return self
        logs = probabilities.double().clamp(min=_TINY).log()
        share = torch.bincount(y, minlength=len(self.counts)).double()
        weight = 1 / (share[y] * len(present))  # (N,): every class present counts the same

        def slope(strength: float) -> float:
            """Derivative of the weighted mean of -log p(y): rises with strength, since that mean is convex."""
            given = (logs - strength * self.log_prior).softmax(dim=1)
            return float((weight * (self.log_prior[y] - given @ self.log_prior)).sum())

        return replace(self, strength=_root(slope, 0.0, _STRONGEST))

    def _offset(self, prior: Prior) -> Tensor | None:
        """What to add to log-probabilities, float64 (C,); None: nothing."""
        if isinstance(prior, str):
            if prior not in ("local", "uniform"):
                raise ConfigError(
                    f"prior {prior!r} is neither 'local' nor 'uniform', nor weights by class, nor a number"
                )
            return None if prior == "local" else -self.strength * self.log_prior
        if isinstance(prior, Mapping):
            return _log_weights(prior, len(self.counts)) - self.strength * self.log_prior
        if isinstance(prior, bool) or not isinstance(prior, int | float) or not math.isfinite(prior):
            raise ConfigError(f"prior must be 'local', 'uniform', weights by class, or a finite number, not {prior!r}")
        return prior * self.own.double() if prior else None


def _log_weights(weights: Mapping[int, float], classes: int) -> Tensor:
    for c, weight in weights.items():
        if isinstance(c, bool) or not isinstance(c, int) or not 0 <= c < classes:
            raise ConfigError(f"prior names class {c!r}; this model's classes are 0 to {classes - 1}")
        if not 0 <= weight < math.inf:
            raise ConfigError(f"prior: the weight of class {c} must be at least 0 and finite, not {weight}")
    if not any(weights.values()):
        raise ConfigError("prior: at least one class needs a positive weight")
    given = torch.zeros(classes, dtype=torch.float64)
    for c, weight in weights.items():
        given[c] = weight
    return (given / given.sum()).log()


def _root(slope: Callable[[float], float], low: float, high: float) -> float:
    """Where a rising function passes zero, by bisection; the nearer end when it does not."""
    if slope(low) >= 0:
        return low
    if slope(high) <= 0:
        return high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return (low + high) / 2
