"""Small networks for 28x28 grey images and for vectors. Equal seeds give equal weights, so that peers have a common
start."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peerlearn.learning.sampler import seeded_rng


def initialise(model: nn.Module, seed: int) -> None:
    """Fill weights and biases uniformly within 1/sqrt(fan in), torch's default range, from the seed alone. torch's
    global generators are neither used nor moved."""
    rng = seeded_rng("weights", seed)
    model.to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            bound = 1 / math.sqrt(module.weight[0].numel())
            for parameter in module.parameters(recurse=False):
                nn.init.uniform_(parameter, -bound, bound, generator=rng)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


class Net(nn.Module):
    """The demo's network: 113 thousand parameters, quick on a CPU. `penult` is square, as pairwise transfer needs.

    Inputs (B, 1, 28, 28), logits (B, classes).
    """

    def __init__(self, *, classes: int = 10, seed: int = 0) -> None:
        super().__init__()
        with torch.device("meta"):
            self.conv1 = nn.Conv2d(1, 24, 4, stride=4)
            self.conv2 = nn.Conv2d(24, 32, 3, padding=1)
            self.f0 = nn.Linear(32 * 7 * 7, 64)
            self.penult = nn.Linear(64, 64)
            self.fc = nn.Linear(64, classes)
        initialise(self, seed)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv2(F.relu(self.conv1(x))))  # (B, 32, 7, 7)
        h = F.relu(self.f0(h.flatten(1)))
        logits: Tensor = self.fc(F.relu(self.penult(h)))
        return logits


class SmallCNN(nn.Module):
    """The reference network of the pairwise experiments: conv w, pool, conv 2w, pool, f1, penult (n x n), fc.

    Inputs (B, 1, 28, 28), logits (B, classes). `bn`: batch normalisation after each convolution.
    """

    def __init__(self, *, n: int = 64, w: int = 16, classes: int = 10, bn: bool = False, seed: int = 0) -> None:
        super().__init__()
        with torch.device("meta"):
            self.conv1 = nn.Conv2d(1, w, 3, padding=1)
            self.norm1 = nn.BatchNorm2d(w) if bn else nn.Identity()
            self.conv2 = nn.Conv2d(w, 2 * w, 3, padding=1)
            self.norm2 = nn.BatchNorm2d(2 * w) if bn else nn.Identity()
            self.f1 = nn.Linear(2 * w * 49, n)
            self.penult = nn.Linear(n, n)
            self.fc = nn.Linear(n, classes)
        initialise(self, seed)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)  # (B, w, 14, 14)
        h = F.max_pool2d(F.relu(self.norm2(self.conv2(h))), 2)  # (B, 2w, 7, 7)
        h = F.relu(self.f1(h.flatten(1)))
        logits: Tensor = self.fc(F.relu(self.penult(h)))
        return logits


class DeepCNN(nn.Module):
    """Four convolutions with batch normalisation, a global mean, penult and fc. Deeper than SmallCNN, and with buffers.

    Inputs (B, 1, 28, 28), logits (B, classes).
    """

    def __init__(self, *, w: int = 16, n: int = 64, classes: int = 10, seed: int = 0) -> None:
        super().__init__()
        widths = [1, w, w, 2 * w, 4 * w]
        with torch.device("meta"):
            self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairwise(widths))
            self.norms = nn.ModuleList(nn.BatchNorm2d(b) for b in widths[1:])
            self.penult = nn.Linear(4 * w, n)
            self.fc = nn.Linear(n, classes)
        initialise(self, seed)

    def forward(self, x: Tensor) -> Tensor:
        for depth, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = F.relu(norm(conv(x)))
            if depth < 3:
                x = F.max_pool2d(x, 2)
        logits: Tensor = self.fc(F.relu(self.penult(x.mean(dim=(2, 3)))))
        return logits


class MLP(nn.Module):
    """Hidden layers of the given widths with ReLU. The last hidden layer is named `penult`, the output layer `fc`.

    Inputs (B, ...) are flattened to (B, inputs); logits (B, classes).
    """

    def __init__(
        self, inputs: int = 784, hidden: Sequence[int] = (128, 64), *, classes: int = 10, seed: int = 0
    ) -> None:
        super().__init__()
        widths = [inputs, *hidden]
        with torch.device("meta"):
            self.body = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths[:-1]))
            self.penult = nn.Linear(widths[-2], widths[-1])
            self.fc = nn.Linear(widths[-1], classes)
        initialise(self, seed)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in (*self.body, self.penult):
            x = F.relu(layer(x))
        logits: Tensor = self.fc(x)
        return logits
