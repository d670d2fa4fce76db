"""Accuracy from a confusion matrix. Samples are counted; batch accuracies are never averaged."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from peerlearn.errors import LearnerError


@dataclass(frozen=True, slots=True)
class Scores:
    """Accuracies in 0..1 on test samples: `private` on the peer's own classes, `remote` on all other classes, `shared`
    on all classes. nan where there are no samples."""

    private: float
    remote: float
    shared: float


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Result of a model on labelled data. `confusion`: int64 (C, C), rows are true classes, columns predictions.
    `loss`: mean negative log-likelihood of the true class, in nats; nan without samples."""

    confusion: Tensor
    loss: float

    @property
    def samples(self) -> int:
        """Number of samples."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of correctly classified samples, 0 to 1; nan without samples."""
        return accuracy(self.confusion)

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall over the classes that have samples, 0 to 1; nan without samples."""
        return balanced_accuracy(self.confusion)

    def scores(self, own: Iterable[int]) -> Scores:
        """Accuracy on the classes `own`, on all others, and on all."""
        return scores(self.confusion, own)


def nothing(classes: int) -> Evaluation:
    """The evaluation of a model on no samples: zero counts, loss nan."""
    return Evaluation(torch.zeros(classes, classes, dtype=torch.int64), float("nan"))


def evaluation(probabilities: Tensor, y: Tensor, *, classes: int) -> Evaluation:
    """Evaluate probabilities (N, C) against labels int64 (N,)."""
    likelihood = probabilities.gather(1, y[:, None]).double().clamp(min=1e-12)  # a float32 0 counts as 28 nats, not inf
    loss = float(-likelihood.log().mean()) if len(y) else float("nan")
    return Evaluation(confusion(probabilities, y, classes=classes), loss)


def confusion(probabilities: Tensor, y: Tensor, *, classes: int) -> Tensor:
    """Counts int64 (C, C), indexed [true class, predicted class], from probabilities or logits (N, C) and labels y
    int64 (N,). Raises LearnerError for another shape."""
    if probabilities.shape != (len(y), classes):
        raise LearnerError(f"predictions must be ({len(y)}, {classes}), not {tuple(probabilities.shape)}")
    flat = y * classes + probabilities.argmax(dim=1)
    return torch.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def accuracy(confusion: Tensor) -> float:
    """Share of samples on the diagonal; nan without samples."""
    return _share(int(confusion.diagonal().sum()), int(confusion.sum()))


def recall(confusion: Tensor) -> Tensor:
    """Share of each true class that is classified correctly, float64 (C,); nan for a class without samples."""
    return confusion.diagonal().double() / confusion.sum(dim=1).double()


def balanced_accuracy(confusion: Tensor) -> float:
    """Mean recall over the classes that have samples; nan without samples."""
    return float(recall(confusion).nanmean())


def scores(confusion: Tensor, own: Iterable[int]) -> Scores:
    """Private, remote and shared accuracy; `own` are the peer's own classes."""
    mine = torch.zeros(len(confusion), dtype=torch.bool)
    mine[list(own)] = True
    right, all_of = confusion.diagonal(), confusion.sum(dim=1)
    return Scores(
        private=_share(int(right[mine].sum()), int(all_of[mine].sum())),
        remote=_share(int(right[~mine].sum()), int(all_of[~mine].sum())),
        shared=accuracy(confusion),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
