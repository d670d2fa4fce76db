"""Networks cut in two: a small edge (extractor and classifier), and a large hub that takes feature maps.

FedGKT (He, Annavaram, Avestimehr 2020), figure 1. Equal seeds give equal weights. Edges should share a seed, so that
their features mean the same to the hub.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peerlearn.errors import ConfigError
from peerlearn.learning.dataset import Dataset
from peerlearn.learning.models import initialise


class EdgeNetwork(nn.Module):
    """f_c after f_e: `extractor` computes the feature map, `classifier` the logits."""

    extractor: nn.Module
    classifier: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.extractor(x))
        return logits


class GKTSmall(EdgeNetwork):
    """770 parameters, batch-normalised: inputs (B, 1, 28, 28), features (B, 8, 14, 14), logits (B, classes).

    `blocks`: convolutions of the classifier.
    """

    def __init__(self, *, classes: int = 10, blocks: int = 1, seed: int = 0) -> None:
        super().__init__()
        with torch.device("meta"):
            self.extractor = nn.Sequential(_conv(1, 8, stride=2), nn.BatchNorm2d(8), nn.ReLU())
            convs = [m for _ in range(blocks) for m in (_conv(8, 8), nn.BatchNorm2d(8), nn.ReLU())]
            self.classifier = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
        initialise(self, seed)


class GKTLarge(nn.Module):
    """The hub's side of GKTSmall, 23,498 parameters: features (B, 8, 14, 14), logits (B, classes)."""

    feature_shape = (8, 14, 14)

    def __init__(self, *, classes: int = 10, seed: int = 0) -> None:
        super().__init__()
        with torch.device("meta"):
            self.conv1, self.norm1 = _conv(8, 32), nn.BatchNorm2d(32)
            self.conv2, self.norm2 = _conv(32, 64), nn.BatchNorm2d(64)
            self.fc = nn.Linear(256, classes)
        initialise(self, seed)

    def forward(self, h: Tensor) -> Tensor:
        h = F.max_pool2d(F.relu(self.norm1(self.conv1(h))), 2)  # (B, 32, 7, 7)
        h = F.adaptive_avg_pool2d(F.relu(self.norm2(self.conv2(h))), 2)  # (B, 64, 2, 2)
        logits: Tensor = self.fc(h.flatten(1))
        return logits


class PatchEdge(EdgeNetwork):
    """An edge without batch normalisation, 2,754 parameters: inputs (B, 1, 28, 28), features (B, 8, 7, 7), logits (B,
    classes)."""

    def __init__(self, *, classes: int = 10, seed: int = 0) -> None:
        super().__init__()
        with torch.device("meta"):
            self.extractor = nn.Sequential(nn.Conv2d(1, 8, 4, stride=4), nn.ReLU())
            self.classifier = nn.Sequential(
                nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(144, classes)
            )
        initialise(self, seed)


class PatchHub(nn.Module):
    """The hub's side of PatchEdge, 230,362 parameters: features (B, 8, 7, 7), logits (B, classes)."""

    feature_shape = (8, 7, 7)

    def __init__(self, *, classes: int = 10, seed: int = 0) -> None:
        super().__init__()
        with torch.device("meta"):
            self.conv = nn.Conv2d(8, 48, 3, padding=1)
            self.f0 = nn.Linear(48 * 49, 96)
            self.fc = nn.Linear(96, classes)
        initialise(self, seed)

    def forward(self, h: Tensor) -> Tensor:
        logits: Tensor = self.fc(F.relu(self.f0(F.relu(self.conv(h)).flatten(1))))
        return logits


HUBS: Mapping[str, Callable[..., nn.Module]] = {"GKTLarge": GKTLarge, "PatchHub": PatchHub}
"""The hub networks by name, for configurations."""


def hub_network(name: str, *, classes: int) -> nn.Module:
    """The hub network of this name. Raises ConfigError for an unknown name."""
    if name not in HUBS:
        raise ConfigError(f"there is no hub network {name!r}, only {', '.join(HUBS)}")
    return HUBS[name](classes=classes)


def no_samples(feature_shape: Sequence[int], classes: int) -> Dataset:
    """The private set of a hub without private data: two blank feature maps, which tell the Learner the shape that
    edges bring. The method never trains on them. Use with `held_out=0`."""
    x = torch.zeros(2, *feature_shape)
    return Dataset(x, torch.tensor([0, 1 % classes]), torch.arange(2), classes, "no samples")


def _conv(width_in: int, width_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width_in, width_out, 3, stride=stride, padding=1, bias=False)
