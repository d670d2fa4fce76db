"""Data sets, partitions, models and the demo's recipe."""

import gzip
import struct
import sys
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peerlearn.cli.demo import recipe
from peerlearn.data import datasets, partition
from peerlearn.errors import ConfigError, KnowledgeError, LearnerError
from peerlearn.learning import models
from peerlearn.learning.dataset import Dataset, Unlabelled
from peerlearn.learning.state import fingerprint
from peerlearn.testing import bits, tiny_data
from peerlearn.types import epochs

# ---- data sets


def test_the_packaged_slice_is_balanced_normalised_and_licensed() -> None:
    train, test = datasets.load("fashion-mnist-slice")
    assert train.x.shape == (5800, 1, 28, 28)
    assert test.x.shape == (1000, 1, 28, 28)
    assert train.histogram.tolist() == [580] * 10
    assert test.histogram.tolist() == [100] * 10
    assert train.x.dtype == torch.float32
    assert abs(float(train.x.mean())) < 0.02
    assert abs(float(train.x.std()) - 1) < 0.02
    assert len(torch.cat([train.x, test.x]).flatten(1).unique(dim=0)) > 6790
    files = resources.files("peerlearn.data") / "data_files"
    assert (files / "fashion_mnist_slice.npz").stat().st_size < 3_100_000  # type: ignore[attr-defined]
    assert "MIT License" in (files / "LICENSE.fashion-mnist").read_text()


def _write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def _fashion(folder: Path, n: int = 12) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for prefix in ("train", "t10k"):
        pixels = (np.arange(n * 784) % 251).astype(np.uint8).reshape(n, 28, 28)
        _write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", pixels)
        _write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", (np.arange(n) % 10).astype(np.uint8))
    return folder


def test_the_full_set_is_read_from_a_folder_or_the_environment(tmp_path: Path, monkeypatch) -> None:
    told = datasets.load("fashion-mnist", folder=_fashion(tmp_path / "a"))
    assert told.train.x.shape == (12, 1, 28, 28)
    assert float(told.train.x[0, 0, 0, 1]) == pytest.approx((1 / 255 - 0.2860) / 0.3530)
    _fashion(tmp_path / "b" / "fashion-mnist", n=7)
    monkeypatch.setenv("PEERLEARN_DATA", str(tmp_path / "b"))
    assert len(datasets.load("fashion-mnist").train) == 7
    assert len(datasets.load("fashion-mnist-slice").train) == 5800


def test_without_the_full_set_the_slice_is_taken(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("PEERLEARN_DATA", raising=False)
    monkeypatch.setattr(datasets, "DEBIAN", tmp_path)
    assert datasets.load("fashion-mnist").train.name == "fashion-mnist-slice/train"


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not hold Fashion-MNIST"):
        datasets.load("fashion-mnist", folder=tmp_path)
    folder = _fashion(tmp_path)
    victim = folder / "train-images-idx3-ubyte.gz"
    whole = victim.read_bytes()
    for damage in (
        whole[:50],
        b"no gzip at all",
        gzip.compress(b"\0\0\x08\x03"),
        gzip.compress(b"\0\0\x0d\x01" + b"\0" * 8),
        gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12),
    ):
        victim.write_bytes(damage)
        with pytest.raises(LearnerError, match="train-images-idx3-ubyte"):
            datasets.load("fashion-mnist", folder=folder)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'fashion-mnist'"):
        datasets.load("fashion_mnist")


def test_digits_or_the_pip_line_that_brings_them(monkeypatch) -> None:
    pytest.importorskip("sklearn")
    train, test = datasets.load("digits")
    assert len(train) + len(test) == 1797
    assert train.x.shape[1:] == (1, 8, 8)
    assert min(test.histogram.tolist()) > 20
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'peerlearn\[digits\]'"):
        datasets.load("digits")


def test_subsets_keep_the_ids_of_the_whole() -> None:
    whole = tiny_data()
    part = whole.subset(torch.tensor([40, 7, 90, 7]))
    assert part.ids.tolist() == [7, 40, 90]
    assert torch.equal(part.x, whole.x[[7, 40, 90]])
    again = part.subset(torch.tensor([90]))
    assert torch.equal(again.x[0], whole.x[90])
    with pytest.raises(LearnerError, match="no sample with id 8"):
        part.subset(torch.tensor([8]))


def test_fingerprints_tell_contents_apart() -> None:
    whole = tiny_data()
    public = whole.unlabelled("p")
    assert public.fingerprint == Unlabelled(whole.x.clone(), whole.ids.clone(), "other name").fingerprint
    moved = whole.x.clone()
    moved[3, 3] += 1e-6
    assert public.fingerprint != Unlabelled(moved, whole.ids, "p").fingerprint
    assert public.fingerprint != Unlabelled(whole.x, whole.ids + 1, "p").fingerprint
    assert whole.fingerprint != Dataset(whole.x, whole.y.flip(0), whole.ids, 4, "blobs").fingerprint
    assert fingerprint({"a": torch.zeros(2)}) != fingerprint({"a": torch.zeros(2, 1)})
    assert public.rows(torch.tensor([5, 2])).tolist() == [5, 2]
    with pytest.raises(KnowledgeError, match="id 96"):
        public.rows(torch.tensor([1, 96]))


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [(torch.tensor([0, 0]), "rise"), (torch.tensor([0.0, 1.0]), "int64"), (torch.tensor([0]), "int64")],
)
def test_ids_must_name_each_sample_once(ids: torch.Tensor, sentence: str) -> None:
    with pytest.raises(LearnerError, match=sentence):
        Unlabelled(torch.zeros(2, 3), ids, "p")


# ---- partitions


def test_by_classes_mixes_a_share_of_all_classes_into_each() -> None:
    y = torch.arange(6000) % 10
    groups = [(6, 7, 8, 9), (0, 1, 2), (3, 4, 5)]
    parts = partition.by_classes(y, groups, overlap=0.05, seed=3)
    for part, own in zip(parts, groups, strict=True):
        histogram = torch.bincount(y[part], minlength=10)
        assert all(histogram[c] == 600 for c in own)
        foreign = [int(histogram[c]) for c in range(10) if c not in own]
        assert all(12 <= count <= 50 for count in foreign)
        assert len(part) == len(part.unique())
    assert [len(p) for p in partition.by_classes(y, groups, overlap=0)] == [2400, 1800, 1800]
    assert torch.cat(partition.by_classes(y, groups, overlap=0)).unique().numel() == 6000
    assert all(map(torch.equal, parts, partition.by_classes(y, groups, overlap=0.05, seed=3)))
    assert not torch.equal(parts[0], partition.by_classes(y, groups, overlap=0.05, seed=4)[0])


def test_a_class_held_by_two_is_dealt_out() -> None:
    y = torch.arange(400) % 4
    one, two = partition.by_classes(y, [(0, 1), (1, 2)], overlap=0)
    assert torch.bincount(y[one], minlength=4).tolist() == [100, 50, 0, 0]
    assert not set(one.tolist()) & set(two.tolist())
    with pytest.raises(ConfigError, match="class 7"):
        partition.by_classes(y, [(7,)])
    with pytest.raises(ConfigError, match="overlap"):
        partition.by_classes(y, [(0,)], overlap=2)


@settings(deadline=None)
@given(peers=st.integers(1, 8), seed=st.integers(0, 99), alpha=st.floats(0.05, 100))
def test_iid_and_dirichlet_give_every_sample_to_exactly_one_peer(peers: int, seed: int, alpha: float) -> None:
    y = torch.arange(300) % 10
    for parts in (partition.iid(y, peers, seed=seed), partition.dirichlet(y, peers, alpha=alpha, seed=seed)):
        assert len(parts) == peers
        assert torch.cat(parts).sort().values.tolist() == list(range(300))
        assert all(torch.equal(part, part.sort().values) for part in parts)


def test_dirichlet_skews_and_iid_does_not() -> None:
    y = torch.arange(5000) % 10

    def spread(parts: list[torch.Tensor]) -> float:
        return float(torch.stack([torch.bincount(y[p], minlength=10).float() / len(p) for p in parts]).std(0).mean())

    assert spread(partition.iid(y, 5)) < 0.02 < 0.08 < spread(partition.dirichlet(y, 5, alpha=0.1))
    assert min(map(len, partition.dirichlet(y, 5, alpha=0.1))) > 100
    with pytest.raises(ConfigError, match="alpha"):
        partition.dirichlet(y, 5, alpha=0)
    with pytest.raises(ConfigError, match="among 6 peers"):
        partition.iid(y[:5], 6)


# ---- models


@pytest.mark.parametrize(
    "make", [models.Net, models.SmallCNN, models.DeepCNN, models.MLP, partial(models.SmallCNN, bn=True)]
)
def test_models_take_grey_images_and_start_from_their_seed_alone(make) -> None:
    before = torch.get_rng_state()
    one, two, other = make(seed=3), make(seed=3), make(seed=4)
    assert torch.equal(before, torch.get_rng_state())
    assert bits(one.state_dict()) == bits(two.state_dict()) != bits(other.state_dict())
    assert one(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert {"penult", "fc"} <= {name for name, _ in one.named_modules()}
    assert all(torch.isfinite(t).all() for t in one.state_dict().values())


def test_model_sizes() -> None:
    count = [sum(p.numel() for p in m.parameters()) for m in (models.Net(), models.SmallCNN())]
    assert count == [112_578, 110_026]
    assert models.Net().penult.weight.shape == models.SmallCNN().penult.weight.shape == (64, 64)


# ---- the demo


def test_demo_peers_hold_all_classes_once() -> None:
    assert recipe.DEMO_PEERS[3] == {"amber": (6, 7, 8, 9), "birch": (0, 1, 2), "cedar": (3, 4, 5)}
    for n, peers in recipe.DEMO_PEERS.items():
        assert len(peers) == n
        assert sorted(c for own in peers.values() for c in own) == list(range(10))
    for n in (1, 11):
        with pytest.raises(ConfigError, match="2 to 10 peers"):
            recipe.demo_peers(n)


def test_demo_learners_have_a_common_start_and_their_own_classes() -> None:
    peers = recipe.DEMO_PEERS[3]
    amber, birch = (recipe.demo_learner(name, peers, 1) for name in ("amber", "birch"))
    assert amber.describe().start == birch.describe().start != recipe.demo_learner("amber", peers, 2).describe().start
    assert amber.describe().architecture == birch.describe().architecture
    histogram = amber.describe().histogram
    assert min(histogram[c] for c in (6, 7, 8, 9)) == 522
    assert max(histogram[:6]) < 60
    report = amber.fit(epochs(1))
    assert report.samples == sum(histogram)
    assert len(recipe.demo_test_set()) == 1000
    with pytest.raises(ConfigError, match="no demo peer 'onyx'"):
        recipe.demo_learner("onyx", peers, 0)
