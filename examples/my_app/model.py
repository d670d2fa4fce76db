"""Your model, your data, one Learner. From the folder above: `peerlearn up my_app.model:learner --name amber`.

Two peers of one process would hold the same data; here MY_APP_CLASSES says which classes this machine has seen: "0-4".
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
    torch.manual_seed(0)  # a common start: pairwise transfer and distillation then fit from the first round
    return pl.Learner(Classifier(), train.subset(mine), task="fashion-mnist")
