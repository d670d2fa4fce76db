"""NSL-KDD, network connections in five kinds (Tavallaee et al. 2009), from a folder: intrusion detection under shift.

Eighteen attack types of the test file are not in the training file, so what was learned does not hold for long.
"""

import gzip
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from peerlearn.data.datasets import Split
from peerlearn.errors import ConfigError, LearnerError
from peerlearn.learning.dataset import Dataset

KINDS = ("normal", "dos", "probe", "r2l", "u2r")
"""The classes 0 to 4."""
TRAIN, TEST = "KDDTrain+_20Percent.txt", "KDDTest+.txt"

_ATTACKS = {
    "normal": "normal",
    "dos": "apache2 back land mailbomb neptune pod processtable smurf teardrop udpstorm worm",
    "probe": "ipsweep mscan nmap portsweep saint satan",
    "r2l": "ftp_write guess_passwd httptunnel imap multihop named phf sendmail snmpgetattack snmpguess spy "
    "warezclient warezmaster xlock xsnoop",
    "u2r": "buffer_overflow loadmodule perl ps rootkit sqlattack xterm",
}
_CLASS = {attack: number for number, kind in enumerate(KINDS) for attack in _ATTACKS[kind].split()}
_FIELDS = 43  # 41 features, the label, a difficulty that is not used
_WORDS = (1, 2, 3)  # protocol, service, flag
_MOST_BYTES = 256 << 20


def missing(folder: str | None = None) -> str | None:
    """Why NSL-KDD cannot be loaded here, in one sentence; None when it can."""
    places = _places(folder)
    if any(_holds(place) for place in places):
        return None
    looked = f"looked in {', '.join(str(place) for place in places)}" if places else "PEERLEARN_DATA is not set"
    return f"NSL-KDD is not here ({looked}): name a folder that holds {TRAIN}.gz and {TEST}.gz"


def load(folder: str | None = None) -> Split:
    """x float32 (N, D), y int64 (N,) with the classes of `KINDS`: 25,192 and 22,544 connections.

    From `folder`, else from the environment variable PEERLEARN_DATA, itself or its folder nsl-kdd; the files may be
    gzipped. Columns: 38 numbers, as log(1 + value) with mean 0 and deviation 1 over the training file, then one per
    protocol, service and flag that the training file knows. D = 118 for the 20 % file. Raises ConfigError when the
    files are not there, LearnerError when they are damaged.
    """
    place = next((place for place in _places(folder) if _holds(place)), None)
    if place is None:
        raise ConfigError(str(missing(folder)))
    train, test = _rows(_file(place, TRAIN)), _rows(_file(place, TEST))
    vocabularies = [sorted({row[column] for row in train}) for column in _WORDS]
    numbers, labels = _numbers(train), _labels(train, TRAIN)
    mean, sd = numbers.mean(dim=0), numbers.std(dim=0)
    sd = torch.where(sd > 0, sd, torch.ones_like(sd))
    x = torch.cat([(numbers - mean) / sd, _one_hot(train, vocabularies)], dim=1)
    x_test = torch.cat([(_numbers(test) - mean) / sd, _one_hot(test, vocabularies)], dim=1)
    return Split(_dataset(x, labels, "train"), _dataset(x_test, _labels(test, TEST), "test"))


def _places(folder: str | None) -> list[Path]:
    roots = [folder] if folder else [os.environ[key] for key in ("PEERLEARN_DATA",) if key in os.environ]
    return [place for root in roots for place in (Path(root), Path(root) / "nsl-kdd")]


def _holds(place: Path) -> bool:
    return all(_file(place, name).is_file() for name in (TRAIN, TEST))


def _file(place: Path, name: str) -> Path:
    packed = place / f"{name}.gz"
    return packed if packed.is_file() else place / name


def _rows(path: Path) -> list[list[str]]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("ascii")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as exc:
        raise LearnerError(f"{path} cannot be read as a file of NSL-KDD: {exc}") from exc
    rows = [line.split(",") for line in text.splitlines() if line]
    for number, row in enumerate(rows, start=1):
        if len(row) != _FIELDS:
            raise LearnerError(f"{path}, line {number}: {_FIELDS} fields are expected, not {len(row)}")
    if not rows:
        raise LearnerError(f"{path} is empty")
    return rows


def _numbers(rows: Sequence[Sequence[str]]) -> Tensor:
    """float32 (N, 38): counts and bytes span nine orders of magnitude, hence the logarithm."""
    columns = [column for column in range(_FIELDS - 2) if column not in _WORDS]
    try:
        values = [[float(row[column]) for column in columns] for row in rows]
    except ValueError as exc:
        raise LearnerError(f"NSL-KDD: a feature is not a number: {exc}") from exc
    return torch.tensor(values).clamp(min=0).log1p()


def _one_hot(rows: Sequence[Sequence[str]], vocabularies: Sequence[Sequence[str]]) -> Tensor:
    """float32 (N, words); all zero for a word that the training file does not know."""
    parts = []
    for column, words in zip(_WORDS, vocabularies, strict=True):
        number = {word: n for n, word in enumerate(words)}
        codes = torch.tensor([number.get(row[column], len(words)) for row in rows])
        parts.append(torch.nn.functional.one_hot(codes, len(words) + 1)[:, :-1].float())
    return torch.cat(parts, dim=1)


def _labels(rows: Sequence[Sequence[str]], name: str) -> Tensor:
    strange = {row[-2] for row in rows} - _CLASS.keys()
    if strange:
        raise LearnerError(f"{name}: there is no kind of attack known as {min(strange)!r}")
    return torch.tensor([_CLASS[row[-2]] for row in rows])


def _dataset(x: Tensor, y: Tensor, part: str) -> Dataset:
    return Dataset(x, y, torch.arange(len(y)), len(KINDS), f"nsl-kdd/{part}")
