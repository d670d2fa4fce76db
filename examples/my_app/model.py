"""A model, data and one function that makes a Learner. Run `peerlearn up my_app.model:learner --name amber` above here.

The environment variable MY_APP_CLASSES gives the classes of this peer's samples, for example "0-4"; without it all ten.
"""

import os

import torch
from torch import nn

import peerlearn as pl


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU())
        self.penult = nn.Linear(64, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, 1, 28, 28) -> logits (B, 10)
        logits: torch.Tensor = self.head(torch.relu(self.penult(self.body(x))))
        return logits


def learner() -> pl.Learner:
    first, last = map(int, os.environ.get("MY_APP_CLASSES", "0-9").split("-"))
    train = pl.datasets.load("fashion-mnist-slice").train
    mine = pl.partition.by_classes(train.y, [range(first, last + 1)])[0]
    torch.manual_seed(0)  # same first weights at every peer: pairwise transfer and distillation then fit from round 1
    return pl.Learner(Classifier(), train.subset(mine), task="fashion-mnist")
