"""Real data sets by name: Fashion-MNIST (in full where it is installed, else a packaged slice) and digits."""

import gzip
import os
import struct
import zlib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from peerlearn.errors import ConfigError, ExtraMissing, LearnerError
from peerlearn.learning.dataset import Dataset
from peerlearn.learning.sampler import seeded_rng
from peerlearn.suggest import did_you_mean

SLICE = "fashion_mnist_slice.npz"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts it."""

_MEAN, _SD = 0.2860, 0.3530  # of the 60,000 training images
_FILES = {
    "train_x": "train-images-idx3-ubyte.gz",
    "train_y": "train-labels-idx1-ubyte.gz",
    "test_x": "t10k-images-idx3-ubyte.gz",
    "test_y": "t10k-labels-idx1-ubyte.gz",
}
_IDX_MOST = 64 << 20


class Split(NamedTuple):
    """A data set in two parts that share no sample."""

    train: Dataset
    test: Dataset


def names() -> tuple[str, ...]:
    """The data sets that `load` knows."""
    return tuple(_LOADERS)


def load(name: str, *, folder: Path | str | None = None) -> Split:
    """x float32 (N, 1, 28, 28), mean 0 and deviation 1 over the training images (digits: (N, 1, 8, 8)); y int64 (N,).

    `fashion-mnist`: the full set from `folder`, else from the folder in the environment variable PEERLEARN_DATA, else
    from Debian's package, else the packaged slice. `fashion-mnist-slice`: always the slice. `digits`: scikit-learn's.
    Raises ConfigError for an unknown name or a folder without the files, LearnerError for files that are damaged.
    """
    loader = _LOADERS.get(name)
    if loader is None:
        raise ConfigError(f"there is no data set {name!r}, only {', '.join(_LOADERS)}{did_you_mean(name, _LOADERS)}")
    return loader(Path(folder) if folder is not None else None)


def _fashion_mnist(folder: Path | None) -> Split:
    if folder is not None and not _holds(folder):
        raise ConfigError(f"{folder} does not hold Fashion-MNIST: {', '.join(_FILES.values())} are expected there")
    told = os.environ.get("PEERLEARN_DATA")
    places = [folder] if folder else [*([Path(told), Path(told) / "fashion-mnist"] if told else []), DEBIAN]
    for place in places:
        if _holds(place):
            arrays = {part: read_idx(place / file) for part, file in _FILES.items()}
            return _split("fashion-mnist", arrays)
    return _slice(None)


def _slice(folder: Path | None) -> Split:
    if folder is not None:
        raise ConfigError("fashion-mnist-slice is inside the package and takes no folder; load 'fashion-mnist' instead")
    packed = resources.files("peerlearn.data") / "data_files" / SLICE
    with packed.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return _split("fashion-mnist-slice", {part: arrays[part] for part in _FILES})


def _digits(folder: Path | None) -> Split:
    if folder is not None:
        raise ConfigError("digits come with scikit-learn and take no folder")
    try:
        from sklearn.datasets import load_digits
    except ImportError as exc:
        raise ExtraMissing("digits need scikit-learn: pip install 'peerlearn[digits]'") from exc
    pixels, labels = load_digits(return_X_y=True)
    x = torch.as_tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    y = torch.as_tensor(labels, dtype=torch.int64)
    shuffled = torch.randperm(len(y), generator=seeded_rng("digits"))
    x, y = x[shuffled], y[shuffled]
    cut = len(y) * 4 // 5
    x = (x - x[:cut].mean()) / x[:cut].std()
    return Split(_dataset(x[:cut], y[:cut], "digits/train"), _dataset(x[cut:], y[cut:], "digits/test"))


_LOADERS: dict[str, Callable[[Path | None], Split]] = {
    "fashion-mnist": _fashion_mnist,
    "fashion-mnist-slice": _slice,
    "digits": _digits,
}


def _holds(folder: Path) -> bool:
    return all((folder / file).is_file() for file in _FILES.values())


def _split(name: str, arrays: dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"]) -> Split:
    parts = {
        part: _dataset(
            (torch.from_numpy(arrays[f"{part}_x"]).float().div_(255).sub_(_MEAN).div_(_SD)).unsqueeze(1),
            torch.from_numpy(arrays[f"{part}_y"]).long(),
            f"{name}/{part}",
        )
        for part in ("train", "test")
    }
    return Split(**parts)


def _dataset(x: Tensor, y: Tensor, name: str) -> Dataset:
    return Dataset(x, y, torch.arange(len(y)), 10, name)


def read_idx(path: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """A gzipped idx file of bytes, uint8 of the shape that its header says. Raises LearnerError when it is damaged.

    Format: two zero bytes, 0x08 for bytes, the number of dimensions, then each as big-endian int32, then the data.
    """
    try:
        with gzip.open(path, "rb") as file:
            raw = file.read(_IDX_MOST + 1)
    except (OSError, EOFError, zlib.error) as exc:
        raise LearnerError(f"{path} cannot be read as a gzipped idx file: {exc}") from exc
    dims = raw[3] if len(raw) >= 4 and raw[:3] == b"\x00\x00\x08" else 0
    begin = 4 + 4 * dims
    shape = struct.unpack(f">{dims}I", raw[4:begin]) if dims and len(raw) >= begin else ()
    if not shape or len(raw) - begin != np.prod(shape, dtype=object):
        raise LearnerError(f"{path} is not a whole idx file of bytes; fetch it again")
    return np.frombuffer(bytearray(raw), np.uint8, offset=begin).reshape(shape)
