"""The demo's recipe: peers that hold different classes of the packaged slice of Fashion-MNIST, from a common start."""

from collections.abc import Mapping
from functools import cache

import torch

from peerlearn.data import datasets, partition
from peerlearn.errors import ConfigError
from peerlearn.learning import models
from peerlearn.learning.dataset import Dataset
from peerlearn.learning.learner import Learner

CLASSES = 10
OVERLAP = 0.05
BATCH_SIZE = 32
"""Half the papers': the slice is small, and what is learned from others comes with steps rather than passes."""
DEMO_ROUNDS = 16
"""After these every method is clearly above isolation, with all peers and their twins within a minute of two cores."""
TASK = "fashion-mnist"

_NAMES = ("amber", "birch", "cedar", "dahlia", "elder", "fern", "ginkgo", "hazel", "iris", "juniper")


def demo_peers(peers: int) -> dict[str, tuple[int, ...]]:
    """Names to the classes that each holds, for 2 to 10 peers. Raises ConfigError for another number."""
    if not 2 <= peers <= len(_NAMES):
        raise ConfigError(f"the demo runs with 2 to {len(_NAMES)} peers, not {peers}")
    if peers == 3:  # as in the pairwise paper, section 3
        return {"amber": (6, 7, 8, 9), "birch": (0, 1, 2), "cedar": (3, 4, 5)}
    groups = torch.tensor_split(torch.arange(CLASSES), peers)
    return {name: tuple(group.tolist()) for name, group in zip(_NAMES, groups, strict=False)}


DEMO_PEERS: Mapping[int, Mapping[str, tuple[int, ...]]] = {n: demo_peers(n) for n in range(2, len(_NAMES) + 1)}


def demo_learner(name: str, peers: Mapping[str, tuple[int, ...]], seed: int) -> Learner:
    """The learner of the peer `name` among `peers` (names to classes). All peers of one seed start from equal weights;
    each mixes 5 % of the whole set, of all classes, into its own classes. Raises ConfigError for an unknown name."""
    if name not in peers:
        raise ConfigError(f"there is no demo peer {name!r}, only {', '.join(peers)}")
    train = _data().train
    parts = partition.by_classes(train.y, list(peers.values()), overlap=OVERLAP, seed=seed)
    private = train.subset(train.ids[parts[list(peers).index(name)]], name=f"{train.name}/{name}")
    return Learner(models.Net(seed=seed), private, classes=CLASSES, batch_size=BATCH_SIZE, seed=seed, task=TASK)


def demo_test_set() -> Dataset:
    """1,000 test images, 100 of each class, that no peer trains on."""
    return _data().test


@cache
def _data() -> datasets.Split:
    return datasets.load("fashion-mnist-slice")
