"""What a model is worth on the test set: raw accuracies, and shared accuracy at equal private accuracy, on the curve.

Adding one offset to the log-probabilities of a peer's own classes moves any model along a curve of private against
shared accuracy. Two points of two methods say little as long as one could be moved onto the other; at equal private
accuracy they can be compared. The offset is found on the test set itself: a device of evaluation, not of use.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from peerlearn.learning import evaluate
from peerlearn.learning.dataset import Dataset

CURVE_POINTS = 41
_HALVINGS = 50
_WIDEST = 60.0
"""Nats: as far as float probabilities reach."""


class Curve:
    """Private and shared accuracy as functions of the offset on the own classes.

    `probabilities` (N, C), `y` int64 (N,), `own` bool (C,). With all classes own, or none, the offset does nothing.
    """

    def __init__(self, probabilities: Tensor, y: Tensor, own: Tensor) -> None:
        logs = probabilities.double().clamp(min=1e-30).log()
        self._mine = own[y]
        inside = logs.masked_fill(~own, -torch.inf).max(dim=1)
        outside = logs.masked_fill(own, -torch.inf).max(dim=1)
        self._margin = (inside.values - outside.values).nan_to_num(0.0, _WIDEST, -_WIDEST)  # (N,)
        self._right_inside = inside.indices == y
        self._right_outside = outside.indices == y

    def at(self, offset: float) -> tuple[float, float]:
        """Private and shared accuracy; nan without such samples."""
        right = torch.where(self._margin + offset >= 0, self._right_inside, self._right_outside)
        return _mean(right[self._mine]), _mean(right)

    def shared_at(self, private: float) -> float:
        """Shared accuracy at the least offset whose private accuracy is at least `private`; nan when none's is.

        Private accuracy never falls with the offset, so bisection finds it."""
        low, high = -_WIDEST - 1, _WIDEST + 1
        if not self.at(high)[0] >= private:
            return float("nan")
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if self.at(middle)[0] >= private else (middle, high)
        return self.at(high)[1]

    def points(self) -> dict[str, list[float]]:
        """The whole curve, from most open to most closed, at so many offsets that split the samples evenly."""
        shares = torch.linspace(0, 1, CURVE_POINTS, dtype=torch.float64)
        offsets = sorted({float(o) for o in -torch.quantile(self._margin, shares)})
        pairs = [self.at(offset) for offset in offsets]
        return {"private": [round(p, 5) for p, _ in pairs], "shared": [round(s, 5) for _, s in pairs]}


@dataclass(frozen=True, eq=False)
class Evaluator:
    """The test set as one peer sits it. `own`: its own classes; `weights`: how often each class is in its private
    data, (C,), for the accuracy weighted by it; `others`: own classes of other peers, for the accuracy on these."""

    test: Dataset
    own: tuple[int, ...]
    weights: Tensor
    at_private: Sequence[float]
    others: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def metrics(self, probabilities: Tensor) -> dict[str, float]:
        """`private`, `remote`, `shared`, `private_weighted`, `on_PEER`, `shared_at_private_X` for each X."""
        confusion = self.confusion(probabilities)
        scores = evaluate.scores(confusion, self.own)
        recall = evaluate.recall(confusion).nan_to_num(0.0)
        curve = self.curve(probabilities)
        on = {f"on_{name}": evaluate.scores(confusion, own).private for name, own in self.others.items()}
        return (
            on
            | {
                "private": scores.private,
                "remote": scores.remote,
                "shared": scores.shared,
                "private_weighted": float((recall * self.weights).sum() / self.weights.sum()),
            }
            | {f"shared_at_private_{at:.2f}": curve.shared_at(at) for at in self.at_private}
        )

    def confusion(self, probabilities: Tensor) -> Tensor:
        """int64 (C, C): true class by predicted class."""
        return evaluate.confusion(probabilities, self.test.y, classes=self.test.classes)

    def curve(self, probabilities: Tensor) -> Curve:
        own = torch.zeros(self.test.classes, dtype=torch.bool)
        own[list(self.own)] = True
        return Curve(probabilities, self.test.y, own)


def rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    """As they are written: six digits are far more than the test set can tell."""
    return {name: round(value, 6) for name, value in metrics.items()}


def _mean(right: Tensor) -> float:
    return float(right.double().mean()) if len(right) else float("nan")
