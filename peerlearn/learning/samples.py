"""Labelled samples as a learner reads them: tensors at once, any other map-style data set sample by sample."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset, TensorDataset

from peerlearn.errors import LearnerError
from peerlearn.learning.dataset import Dataset

_CHUNK = 4096
"""Samples checked for NaN at a time: bounds the memory of the mask."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Inputs x (B, ...), labels y int64 (B,), and ids int64 (B,), the stable numbers of the samples in their data
    set."""

    x: Tensor
    y: Tensor
    ids: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device) -> "Batch":
        """The batch with x and y on the device; ids stay on the CPU."""
        return self if self.x.device == device else Batch(self.x.to(device), self.y.to(device), self.ids)


@runtime_checkable
class MapStyle(Protocol):
    """A data set with a length that returns (x, y) for a row number."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Any: ...


Labelled = Dataset | TensorDataset | tuple[Tensor, Tensor] | TorchDataset[Any] | MapStyle
"""The kinds of labelled data that a user may give."""


class WithLabels(Protocol):
    """Inputs x (N, ...) and labels y int64 (N,) in memory, such as a Batch or a Dataset."""

    @property
    def x(self) -> Tensor: ...

    @property
    def y(self) -> Tensor: ...


class Samples(Protocol):
    """Checked access to labelled samples by row number."""

    def __len__(self) -> int: ...

    def take(self, rows: Tensor) -> Batch:
        """The samples of these rows, int64 (B,), checked. Raises LearnerError."""
        ...

    def labels(self) -> Tensor:
        """All labels, int64 (N,). May have to read the whole data set."""
        ...

    def known_labels(self) -> Tensor | None:
        """All labels, int64 (N,), when they can be had without reading inputs; else None."""
        ...

    def check_labels(self, classes: int) -> None:
        """Require labels in 0..classes-1 from now on. Raises LearnerError for labels that are known already."""
        ...


def samples_of(data: Labelled, *, what: str = "train_set") -> Samples:
    """Wrap a user's labelled data. `what` names it in errors. Raises LearnerError, with one sentence, for data that
    cannot be used."""
    if isinstance(data, Dataset):
        return TensorSamples(data.x, data.y, data.ids, what)
    if isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, tuple) and all(isinstance(part, Tensor) for part in data):
        if len(data) != 2:
            raise LearnerError(f"{what}: (x, y) expected, {len(data)} tensors were given")
        return TensorSamples(data[0], data[1], None, what)
    if isinstance(data, IterableDataset) or not isinstance(data, MapStyle):
        raise LearnerError(
            f"{what}: a {type(data).__name__} has no length or no item by number; give a map-style data set of (x, y), "
            f"a TensorDataset, or the tensors (x, y)"
        )
    return MapSamples(data, what)


class TensorSamples:
    """Samples in memory, all checked at construction."""

    def __init__(self, x: Tensor, y: Tensor, ids: Tensor | None, what: str) -> None:
        self._what = what
        if len(x) != len(y):
            raise LearnerError(f"{what}: {len(x)} inputs but {len(y)} labels; each input needs one label")
        if len(y) == 0:
            raise LearnerError(f"{what} is empty: there is nothing to learn from")
        self._x, self._y = x, _as_labels(y, what)
        self._ids = torch.arange(len(y)) if ids is None else ids
        _check_inputs(x, what, self._ids)

    def __len__(self) -> int:
        return len(self._y)

    def take(self, rows: Tensor) -> Batch:
        return Batch(self._x[rows], self._y[rows], self._ids[rows])

    def labels(self) -> Tensor:
        return self._y

    def known_labels(self) -> Tensor | None:
        return self._y

    def check_labels(self, classes: int) -> None:
        _check_range(self._y, self._ids, classes, self._what)


class MapSamples:
    """Samples that are read one by one and checked batch by batch. The id of a sample is its row."""

    def __init__(self, data: MapStyle, what: str) -> None:
        self._data, self._what = data, what
        self._classes: int | None = None
        if len(data) == 0:
            raise LearnerError(f"{what} is empty: there is nothing to learn from")
        targets = getattr(data, "targets", None)
        self._labels = _as_labels(torch.as_tensor(targets), what) if _one_each(targets, len(data)) else None

    def __len__(self) -> int:
        return len(self._data)

    def take(self, rows: Tensor) -> Batch:
        items = [self._item(int(row)) for row in rows]
        try:
            x = torch.stack([torch.as_tensor(item[0]) for item in items])
        except (RuntimeError, TypeError, ValueError) as exc:
            raise LearnerError(f"{self._what}: the inputs of one batch do not stack into a tensor: {exc}") from exc
        y = _as_labels(torch.stack([torch.as_tensor(item[1]) for item in items]), self._what)
        _check_inputs(x, self._what, rows)
        if self._classes is not None:
            _check_range(y, rows, self._classes, self._what)
        return Batch(x, y, rows)

    def labels(self) -> Tensor:
        if self._labels is None:
            every = [torch.as_tensor(self._item(row)[1]) for row in range(len(self))]
            self._labels = _as_labels(torch.stack(every), self._what)
            if self._classes is not None:
                _check_range(self._labels, torch.arange(len(self)), self._classes, self._what)
        return self._labels

    def known_labels(self) -> Tensor | None:
        return self._labels

    def check_labels(self, classes: int) -> None:
        self._classes = classes
        if self._labels is not None:
            _check_range(self._labels, torch.arange(len(self)), classes, self._what)

    def _item(self, row: int) -> Sequence[Any]:
        item = self._data[row]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise LearnerError(f"{self._what}[{row}] is a {type(item).__name__}, not a pair (x, y)")
        return item


def _one_each(targets: object, length: int) -> bool:
    """True if `targets`, an attribute of many vision data sets, holds one label per sample."""
    return isinstance(targets, Tensor | list | tuple) and len(targets) == length


def _as_labels(y: Tensor, what: str) -> Tensor:
    if y.dtype == torch.bool or y.is_floating_point() or y.is_complex():
        raise LearnerError(
            f"{what}: labels must be whole numbers (class indices), not {y.dtype}; convert with y.long()"
        )
    if y.dim() != 1:
        raise LearnerError(f"{what}: labels must be one class index per sample, not of shape {tuple(y.shape)}")
    return y.long()


def _check_range(y: Tensor, ids: Tensor, classes: int, what: str) -> None:
    wrong = torch.nonzero((y < 0) | (y >= classes)).reshape(-1)
    if len(wrong):
        row = int(wrong[0])
        raise LearnerError(
            f"{what}: the label of sample {int(ids[row])} is {int(y[row])}, outside 0..{classes - 1}; "
            f"give classes={int(y.max()) + 1} and a model with as many outputs, or mend the labels"
        )


def _check_inputs(x: Tensor, what: str, ids: Tensor) -> None:
    if not x.is_floating_point():
        return
    for begin in range(0, len(x), _CHUNK):
        finite = torch.isfinite(x[begin : begin + _CHUNK]).reshape(len(x[begin : begin + _CHUNK]), -1).all(dim=1)
        if not bool(finite.all()):
            row = begin + int(torch.nonzero(~finite)[0])
            raise LearnerError(f"{what}: sample {int(ids[row])} holds NaN or infinite values; clean or drop it")
