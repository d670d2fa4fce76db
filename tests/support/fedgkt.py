"""A tiny FedGKT: the networks of edge and hub, their learners, and their strategies."""

from typing import Any

import torch
from torch import nn

from peerlearn.learning.dataset import Dataset
from peerlearn.learning.learner import Learner
from peerlearn.learning.models import MLP, initialise
from peerlearn.strategies.fedgkt import models as gkt_models
from peerlearn.strategies.fedgkt.strategy import FedGKT
from peerlearn.testing import (
    CLASSES,
    DIMS,
    tiny_data,
)

WIDTH = 6


class TinyEdge(gkt_models.EdgeNetwork):
    """(B, 8) -> (B, 6) -> (B, 4), with batch normalisation on request."""

    def __init__(self, seed: int = 0, *, bn: bool = False) -> None:
        super().__init__()
        with torch.device("meta"):
            norm = nn.BatchNorm1d(WIDTH) if bn else nn.Identity()
            self.extractor = nn.Sequential(nn.Linear(DIMS, WIDTH), norm, nn.ReLU())
            self.classifier = nn.Linear(WIDTH, CLASSES)
        for name, part in (("e", self.extractor), ("c", self.classifier)):
            initialise(part, seed + len(name))
        if bn:
            norm.reset_parameters()  # type: ignore[operator]
            norm.reset_running_stats()  # type: ignore[operator]


def tiny_hub_net(seed: int = 7) -> MLP:
    return MLP(WIDTH, (12, 10), classes=CLASSES, seed=seed)


def edge_learner(seed: int = 1, *, bn: bool = False, data: Dataset | None = None, **more: Any) -> Learner:
    private = data or tiny_data(samples=48, seed=seed)
    return Learner(TinyEdge(bn=bn), private, classes=CLASSES, batch_size=16, held_out=0, seed=seed, **more)


def hub_learner(network: nn.Module | None = None, **more: Any) -> Learner:
    return Learner(
        network or tiny_hub_net(), gkt_models.no_samples((WIDTH,), CLASSES), classes=CLASSES, held_out=0, **more
    )


def edge_of(**more: Any) -> FedGKT:
    return FedGKT(**{"role": "edge", "network": tiny_hub_net(), **more})


def hub_of(**more: Any) -> FedGKT:
    return FedGKT(**{"role": "hub", "hub_epochs": 2, "batch_size": 16, **more})
