"""Tiny learners and data: milliseconds to train, real in every other way.

Two families. `tiny_*` serve tests of one strategy by direct calls: samples have ids and a data set has a name. `blob*`
serve whole peers: a learner knows some of the classes only, so that what it learns from others can be seen.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peerlearn.learning.dataset import Dataset
from peerlearn.learning.learner import Learner
from peerlearn.learning.models import MLP
from peerlearn.learning.sampler import seeded_rng

CLASSES = 4
"""Classes of all data made here."""
DIMS = 8
"""Length of an input of `tiny_data`."""
BLOB_DIMS = 4
"""Length of an input of `blobs`."""


def tiny_data(
    *, samples: int = 96, classes: int = CLASSES, seed: int = 0, only: Sequence[int] | None = None
) -> Dataset:
    """Normal blobs, one for each class: x float32 (samples, DIMS), y int64 (samples,), ids 0 to samples - 1.

    The centres are the same for every seed. `only`: the classes that occur; None: all.
    """
    source = seeded_rng("blobs", seed)
    centres = torch.randn(classes, DIMS, generator=seeded_rng("centres"))
    y = torch.arange(samples) % classes if only is None else torch.tensor(only)[torch.arange(samples) % len(only)]
    x = centres[y] * 2 + torch.randn(samples, DIMS, generator=source)
    return Dataset(x, y, torch.arange(samples), classes, "blobs")


def tiny_model(*, seed: int = 0, hidden: Sequence[int] = (8, 8), classes: int = CLASSES) -> MLP:
    """A perceptron for `tiny_data`: (B, DIMS) to logits (B, classes). Layers body.0, penult (8 x 8), fc."""
    return MLP(DIMS, hidden, classes=classes, seed=seed)


class Normed(nn.Module):
    """A model for `tiny_data` with buffers and chance: batch normalisation and dropout. Layers body, norm, penult, fc.

    (B, DIMS) to logits (B, CLASSES).
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        inner = tiny_model(seed=seed)
        self.body, self.norm, self.drop = inner.body[0], nn.BatchNorm1d(8), nn.Dropout(0.25)
        self.penult, self.fc = inner.penult, inner.fc

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, CLASSES) for inputs (B, DIMS)."""
        h = self.drop(torch.relu(self.norm(self.body(x))))
        logits: Tensor = self.fc(torch.relu(self.penult(h)))
        return logits


def tiny_learner(seed: int = 0, *, start: int = 0, model: nn.Module | None = None, **options: Any) -> Learner:
    """A learner of `tiny_data`. `seed` decides data and order, `start` the weights; `options` are those of Learner, and
    `data` instead of `train_set`."""
    data = options.pop("data", None) or tiny_data(seed=seed)
    return Learner(
        model or tiny_model(seed=start), data, **{"batch_size": 16, "seed": seed, "classes": CLASSES, **options}
    )


def blobs(classes: list[int], seed: int, amount: int = 240) -> tuple[Tensor, Tensor]:
    """Normal blobs of these classes, well apart: x float32 (amount, BLOB_DIMS), y int64 (amount,)."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.tensor(classes)[torch.randint(0, len(classes), (amount,), generator=draw)]
    centres = torch.eye(BLOB_DIMS) * 3
    return centres[y] + torch.randn(amount, BLOB_DIMS, generator=draw), y


def blob_model(hidden: int = 12, *, seed: int = 0) -> nn.Sequential:
    """A perceptron for `blobs`: (B, BLOB_DIMS) to logits (B, CLASSES). Layers first, penult, fc."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential()
        model.add_module("first", nn.Linear(BLOB_DIMS, hidden))
        model.add_module("relu", nn.ReLU())
        model.add_module("penult", nn.Linear(hidden, hidden))
        model.add_module("relu2", nn.ReLU())
        model.add_module("fc", nn.Linear(hidden, CLASSES))
    return model


def blob_learner(classes: list[int], seed: int, *, hidden: int = 12, amount: int = 240, **options: Any) -> Learner:
    """A learner that has seen blobs of these classes only. All of them begin from the same weights; `options` are those
    of Learner."""
    return Learner(
        blob_model(hidden), blobs(classes, seed, amount), classes=CLASSES, seed=seed, batch_size=32, **options
    )
