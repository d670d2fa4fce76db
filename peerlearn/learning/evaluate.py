"""Accuracy from a confusion matrix: samples are counted, batches are never averaged."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from peerlearn.errors import LearnerError


@dataclass(frozen=True, slots=True)
class Scores:
    """Accuracies in 0..1 over test images of own classes, of the others' classes, of all. nan: no such image."""

    private: float
    remote: float
    shared: float


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """How a model did on labelled data: `confusion` int64 (C, C), rows are true classes, columns predictions;
    `loss` is the mean negative log-likelihood of the true class."""

    confusion: Tensor
    loss: float

    @property
    def samples(self) -> int:
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        return accuracy(self.confusion)

    @property
    def balanced_accuracy(self) -> float:
        return balanced_accuracy(self.confusion)

    def scores(self, own: Iterable[int]) -> Scores:
        return scores(self.confusion, own)


def evaluation(probabilities: Tensor, y: Tensor, *, classes: int) -> Evaluation:
    """From probabilities (N, C) and labels int64 (N,)."""
    likelihood = probabilities.gather(1, y[:, None]).double().clamp(min=1e-12)
    loss = float(-likelihood.log().mean()) if len(y) else float("nan")
    return Evaluation(confusion(probabilities, y, classes=classes), loss)


def confusion(probabilities: Tensor, y: Tensor, *, classes: int) -> Tensor:
    """Counts int64 (C, C): [true class, predicted class], from probabilities or logits (N, C) and y int64 (N,)."""
    if probabilities.shape != (len(y), classes):
        raise LearnerError(f"predictions must be ({len(y)}, {classes}), not {tuple(probabilities.shape)}")
    flat = y * classes + probabilities.argmax(dim=1)
    return torch.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def accuracy(confusion: Tensor) -> float:
    """Share of samples on the diagonal; nan without samples."""
    return _share(int(confusion.diagonal().sum()), int(confusion.sum()))


def recall(confusion: Tensor) -> Tensor:
    """Share of each true class that was recognised, float64 (C,); nan for a class without samples."""
    return confusion.diagonal().double() / confusion.sum(dim=1).double()


def balanced_accuracy(confusion: Tensor) -> float:
    """Mean recall over the classes that have samples; nan without samples."""
    return float(recall(confusion).nanmean())


def scores(confusion: Tensor, own: Iterable[int]) -> Scores:
    """Private, remote and shared accuracy, `own` being the peer's own classes."""
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
