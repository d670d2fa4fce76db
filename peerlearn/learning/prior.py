"""The dial: moves the predictions of a trained model between its own class frequencies and uniform ones, without
training.

A model trained on skewed data has learned p(y | x) under its own class frequencies. Multiplying its probabilities by
(wanted frequency / own frequency) moves them to other frequencies (Saerens et al. 2002; logit adjustment, Menon et al.
2021). How strongly a model reflects its own frequencies depends on the method that trained it; an average of many
peers' models reflects them little. The strength is therefore fitted on held-out private data.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from peerlearn.errors import ConfigError

Prior = Literal["local", "uniform"] | Mapping[int, float] | float
"""The class frequencies expected where a prediction is used.

* `local`: those of the peer's own data, which the model's probabilities have by themselves.
* `uniform`: all classes equally often.
* A mapping from class to weight: these proportions, with 0 for classes that are not named.
* A number: nats to add to the log-probabilities of the peer's own classes. 0 is `local`; a negative number favours
  other classes, a positive one the own classes.
"""

_TINY = 1e-12
"""Smallest probability that counts, so that its logarithm is finite."""
_STRONGEST = 4.0
"""Largest strength that is tried. Values above 1 occur when a model exaggerates its own frequencies."""
_STEPS = 60
"""Halvings of the interval: 4 / 2^60 is below the precision of float64 there."""


@dataclass(frozen=True, slots=True, eq=False)
class Dial:
    """Corrects probabilities from the peer's class frequencies to others.

    `counts`: labelled samples seen per class, float64 (C,); all zero: unknown, and nothing is corrected. `strength`:
    how far the predictions reflect these frequencies; 1 (fully) until `calibrated`.
    """

    counts: Tensor
    strength: float = 1.0

    @classmethod
    def of(cls, histogram: Sequence[int]) -> "Dial":
        """A dial for this histogram, with strength 1."""
        return cls(torch.tensor(histogram, dtype=torch.float64))

    @property
    def own(self) -> Tensor:
        """The peer's own classes, bool (C,): those with at least an average number of samples."""
        return self.counts >= self.counts.mean()

    @property
    def log_prior(self) -> Tensor:
        """Log-frequencies of the classes in the peer's data, float64 (C,). Each class counts one sample more than it
        has, so that none is impossible."""
        smoothed = self.counts + 1
        return (smoothed / smoothed.sum()).log() if bool(self.counts.any()) else torch.zeros_like(self.counts)

    def turned(self, probabilities: Tensor, prior: Prior) -> Tensor:
        """Probabilities (B, C) under the expected class frequencies. Raises ConfigError for an invalid prior."""
        offset = self._offset(prior)
        if offset is None:
            return probabilities
        corrected = probabilities.double().clamp(min=_TINY).log() + offset
        return corrected.softmax(dim=1).to(probabilities.dtype)

    def calibrated(self, probabilities: Tensor, y: Tensor) -> "Dial":
        """A dial with the strength that maximises the likelihood of held-out labels, each class counting equally. Takes
        probabilities (N, C) and labels int64 (N,). With samples of fewer than two classes the dial is unchanged."""
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
        """Addend to log-probabilities, float64 (C,); None: no correction."""
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
    """Zero of a rising function, by bisection; the nearer end of the interval when there is none inside."""
    if slope(low) >= 0:
        return low
    if slope(high) <= 0:
        return high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return (low + high) / 2
