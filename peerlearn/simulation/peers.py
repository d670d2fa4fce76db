"""The peers of a simulation: a tiny learner each; some know few classes, and some have wrong labels."""

import random
from collections import OrderedDict

import torch
from torch import nn

from peerlearn.learning.learner import Learner
from peerlearn.learning.rng import seeded
from peerlearn.learning.sampler import derived, seeded_rng

CLASSES = 4
"""Classes of the data; each peer has two or three of them."""
_FEATURES = 4
"""Inputs per sample: one for each class, so that each class has its own corner."""
_SAMPLES = 60
"""Samples per peer: few, so that a whole day of 50 peers takes seconds."""
_LIARS = 0.1
"""Share of the peers whose labels are wrong."""
_WORDS = ("amber", "birch", "cedar", "daisy", "elder", "fern", "grass", "hazel", "iris", "jade")
"""Names of peers."""


def name_of(place: int) -> str:
    """Names by place: amber, birch, ... jade, amber-2, ..."""
    lap, word = divmod(place, len(_WORDS))
    return _WORDS[word] + (f"-{lap + 1}" if lap else "")


def lies(seed: int, place: int) -> bool:
    """True if the peer at this place has wrong labels. The first two never do, so that good teachers exist."""
    return place > 1 and random.Random(f"{seed}/liar/{place}").random() < _LIARS


def learner(seed: int, place: int) -> Learner:
    """The learner at this place, with the same model and data at every call: two or three classes of four, a blob of
    points each."""
    rng = random.Random(f"{seed}/classes/{place}")
    classes = torch.tensor(sorted(rng.sample(range(CLASSES), rng.choice((2, 3)))))
    torch_rng = seeded_rng("simulated data", seed, place)
    y = classes[torch.randint(0, len(classes), (_SAMPLES,), generator=torch_rng)]
    x = 3 * torch.eye(CLASSES, _FEATURES)[y] + torch.randn(_SAMPLES, _FEATURES, generator=torch_rng)
    if lies(seed, place):
        y = (y + 1) % CLASSES
    model = _network(seed)
    return Learner(
        model, (x, y), optimizer=torch.optim.SGD(model.parameters(), lr=0.1), classes=CLASSES, batch_size=64,
        held_out=0.2, seed=derived("simulated learner", seed, place),
    )  # fmt: skip


def _network(seed: int) -> nn.Sequential:
    """A model with the same initial weights for all peers: averaging needs a common start."""
    with seeded(derived("simulated model", seed)):
        layers = {"penult": nn.Linear(_FEATURES, 8), "relu": nn.ReLU(), "fc": nn.Linear(8, CLASSES)}
        return nn.Sequential(OrderedDict(layers))
