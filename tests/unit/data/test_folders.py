"""NSL-KDD and CIFAR-10 are read from folders; what is not there or damaged is said in one sentence."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from peerlearn.data import cifar10, nsl_kdd
from peerlearn.errors import ConfigError, LearnerError

REAL = os.environ.get("PEERLEARN_DATA")


def row(label: str, *, protocol: str = "tcp", service: str = "http", flag: str = "SF", count: float = 1.0) -> str:
    fields = ["0", protocol, service, flag, str(count), *["0"] * 36, label, "21"]
    return ",".join(fields)


def write(folder: Path, train: list[str], test: list[str], *, packed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in ((nsl_kdd.TRAIN, train), (nsl_kdd.TEST, test)):
        text = "\n".join(rows) + "\n"
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("packed", [True, False])
def test_rows_become_numbers_words_and_five_classes(tmp_path: Path, packed: bool) -> None:
    train = [row("normal", count=0), row("neptune", protocol="udp", count=1e6), row("satan", flag="REJ"), row("spy")]
    test = [row("rootkit"), row("apache2", service="never-seen"), row("mscan")]
    split = nsl_kdd.load(str(write(tmp_path, train, test, packed=packed)))
    assert split.train.y.tolist() == [0, 1, 2, 3]
    assert split.test.y.tolist() == [4, 1, 2]
    assert split.train.x.shape == (4, 38 + 2 + 1 + 2)
    assert split.test.x.shape == (3, 43)
    assert split.train.classes == len(nsl_kdd.KINDS) == 5
    torch.testing.assert_close(split.train.x[:, :38].mean(dim=0), torch.zeros(38), atol=1e-5, rtol=0)
    words = split.train.x[:, 38:]
    assert words.sum(dim=1).tolist() == [3.0] * 4
    assert split.test.x[1, 38:].sum() == 2.0, "a service that training does not know is no word at all"


def test_the_environment_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "nsl-kdd", [row("normal")] * 2, [row("normal")])
    monkeypatch.setenv("PEERLEARN_DATA", str(tmp_path))
    assert nsl_kdd.missing() is None
    assert len(nsl_kdd.load().train) == 2


@pytest.mark.parametrize("module", [nsl_kdd, cifar10], ids=["nsl-kdd", "cifar-10"])
def test_files_that_are_not_there(module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PEERLEARN_DATA", raising=False)
    assert "PEERLEARN_DATA is not set" in module.missing()
    assert str(tmp_path) in module.missing(str(tmp_path))
    with pytest.raises(ConfigError, match="is not here"):
        module.load(str(tmp_path))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (row("normal") + ",1", "line 2: 43 fields"),
        (row("marmot"), "no kind of attack known as 'marmot'"),
        (row("normal").replace("SF,1.0", "SF,much"), "not a number"),
    ],
)
def test_damaged_rows(tmp_path: Path, bad: str, says: str) -> None:
    with pytest.raises(LearnerError, match=says):
        nsl_kdd.load(str(write(tmp_path, [row("normal"), bad], [row("normal")])))


def test_damaged_files(tmp_path: Path) -> None:
    folder = write(tmp_path, [row("normal")], [row("normal")])
    (folder / f"{nsl_kdd.TRAIN}.gz").write_bytes(b"not gzip")
    with pytest.raises(LearnerError, match="cannot be read"):
        nsl_kdd.load(str(folder))


@pytest.mark.skipif(nsl_kdd.missing() is not None, reason=f"NSL-KDD is not in PEERLEARN_DATA ({REAL})")
def test_the_real_files() -> None:
    split = nsl_kdd.load()
    assert split.train.x.shape == (25192, 118)
    assert int(split.train.histogram[0]) == 13449
    assert len(split.test) == 22544


# ---- CIFAR-10


def test_cifar_10_in_its_binary_version(tmp_path: Path) -> None:
    for number, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        rows = np.full((4, 3073), 10 * number, np.uint8)
        rows[:, 0] = np.arange(4) + number % 6
        rows[:, 1:1025] = 255
        rows.tofile(tmp_path / f"{name}.bin")
    split = cifar10.load(str(tmp_path))
    assert split.train.x.shape == (20, 3, 32, 32)
    assert split.test.x.shape == (4, 3, 32, 32)
    assert split.train.y[:4].tolist() == [0, 1, 2, 3]
    assert float(split.train.x[0, 0].mean()) == pytest.approx((1 - 0.4914) / 0.2470, abs=1e-4)
    assert float(split.train.x[0, 2].mean()) == pytest.approx((0 - 0.4465) / 0.2616, abs=1e-4)
    assert cifar10.ColourCNN()(split.test.x).shape == (4, 10)
    (tmp_path / "test_batch.bin").write_bytes(b"\x00" * 100)
    with pytest.raises(LearnerError, match="not a whole file"):
        cifar10.load(str(tmp_path))


def test_cifar_10_as_pictures(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]:
        pixels = np.zeros((3, 1024, 3), np.uint8)
        pixels[..., 1] = 255
        image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "train_lables.json").write_text(json.dumps([1] * 15))
    (tmp_path / "test_lables.json").write_text(json.dumps([0, 1, 2]))
    split = cifar10.load(str(tmp_path))
    assert split.train.x.shape == (15, 3, 32, 32)
    assert float(split.test.x[0, 1].mean()) == pytest.approx((1 - 0.4822) / 0.2435, abs=1e-4)
    (tmp_path / "test_lables.json").write_text("[0, 1]")
    with pytest.raises(LearnerError, match="do not go together"):
        cifar10.load(str(tmp_path))
