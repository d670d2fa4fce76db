"""Data sets as tensors with stable sample ids: labelled ones, and unlabelled ones that peers hold in common."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from peerlearn.errors import KnowledgeError, LearnerError
from peerlearn.learning.state import fingerprint
from peerlearn.types import PublicSet


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """A public set: inputs x (N, ...) with rising sample ids int64 (N,). Raises LearnerError when ids and inputs do not
    match."""

    x: Tensor
    ids: Tensor
    name: str

    def __post_init__(self) -> None:
        _check_ids(self.name, self.ids, len(self.x))

    def __len__(self) -> int:
        return len(self.x)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over inputs and ids: equal only for the same inputs under the same ids."""
        return fingerprint({"x": self.x, "ids": self.ids})

    @property
    def card(self) -> PublicSet:
        """The set's entry on a card: name, fingerprint, number of samples."""
        return PublicSet(self.name, self.fingerprint, len(self))

    def rows(self, ids: Tensor) -> Tensor:
        """Row numbers int64 (k,) of sample ids int64 (k,). Raises KnowledgeError for an unknown id."""
        rows = torch.searchsorted(self.ids, ids).clamp_(max=len(self) - 1)
        strange = self.ids[rows] != ids
        if bool(strange.any()):
            raise KnowledgeError(f"sample id {int(ids[strange][0])} is not in the public set {self.name!r}")
        return rows


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled samples: x float32 (N, ...), y int64 (N,), rising sample ids int64 (N,). A subset keeps the ids of the
    whole. Raises LearnerError when the three do not match."""

    x: Tensor
    y: Tensor
    ids: Tensor
    classes: int
    name: str

    def __post_init__(self) -> None:
        _check_ids(self.name, self.ids, len(self.x))
        if len(self.y) != len(self.x):
            raise LearnerError(f"data set {self.name!r}: {len(self.x)} inputs but {len(self.y)} labels")

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self.x[row], self.y[row]

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over inputs, labels and ids."""
        return fingerprint({"x": self.x, "y": self.y, "ids": self.ids})

    @property
    def histogram(self) -> Tensor:
        """Samples per class, int64 (classes,)."""
        return torch.bincount(self.y, minlength=self.classes)

    def subset(self, ids: Tensor, *, name: str = "") -> "Dataset":
        """The samples with these ids, int64 (k,), in rising order. Raises LearnerError for an unknown id."""
        ids = torch.unique(ids)
        rows = torch.searchsorted(self.ids, ids).clamp_(max=len(self) - 1)
        strange = self.ids[rows] != ids
        if bool(strange.any()):
            raise LearnerError(f"data set {self.name!r} has no sample with id {int(ids[strange][0])}")
        return Dataset(self.x[rows], self.y[rows], ids, self.classes, name or self.name)

    def unlabelled(self, name: str = "") -> Unlabelled:
        """The same inputs and ids without labels, for use as a public set."""
        return Unlabelled(self.x, self.ids, name or self.name)


def _check_ids(name: str, ids: Tensor, length: int) -> None:
    if length == 0:
        raise LearnerError(f"data set {name!r} is empty")
    if ids.dtype != torch.int64 or ids.shape != (length,):
        raise LearnerError(f"data set {name!r}: ids must be int64 ({length},), not {ids.dtype} {tuple(ids.shape)}")
    if length > 1 and not bool((ids[1:] > ids[:-1]).all()):
        raise LearnerError(f"data set {name!r}: sample ids must rise, so that each names one sample")
