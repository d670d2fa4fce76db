"""Who takes part: a tiny learner for each peer, some of whom know little, and some of whom teach nonsense."""

import random
from collections import OrderedDict

import torch
from torch import nn

from peerlearn.learning.learner import Learner
from peerlearn.learning.rng import seeded
from peerlearn.learning.sampler import derived, seeded_rng

CLASSES = 4
_FEATURES = 4
_SAMPLES = 60
_LIARS = 0.1
"""Share of the peers whose labels are shuffled."""
_WORDS = ("amber", "birch", "cedar", "daisy", "elder", "fern", "grass", "hazel", "iris", "jade")


def name_of(place: int) -> str:
    """amber, birch, ... jade, amber-2, ..."""
    lap, word = divmod(place, len(_WORDS))
    return _WORDS[word] + (f"-{lap + 1}" if lap else "")


def lies(seed: int, place: int) -> bool:
    return place > 1 and random.Random(f"{seed}/liar/{place}").random() < _LIARS


def learner(seed: int, place: int) -> Learner:
    """The same model and data however often it is made; two or three classes of four, a blob of points each."""
    draw = random.Random(f"{seed}/classes/{place}")
    classes = torch.tensor(sorted(draw.sample(range(CLASSES), draw.choice((2, 3)))))
    dice = seeded_rng("simulated data", seed, place)
    y = classes[torch.randint(0, len(classes), (_SAMPLES,), generator=dice)]
    x = 3 * torch.eye(CLASSES, _FEATURES)[y] + torch.randn(_SAMPLES, _FEATURES, generator=dice)
    if lies(seed, place):
        y = (y + 1) % CLASSES
    model = _network(seed)
    return Learner(
        model, (x, y), optimizer=torch.optim.SGD(model.parameters(), lr=0.1), classes=CLASSES, batch_size=64,
        held_out=0.2, seed=derived("simulated learner", seed, place), name=name_of(place),
    )  # fmt: skip


def _network(seed: int) -> nn.Sequential:
    """The same initial weights for all: methods that average need a common start."""
    with seeded(derived("simulated model", seed)):
        layers = {"penult": nn.Linear(_FEATURES, 8), "relu": nn.ReLU(), "fc": nn.Linear(8, CLASSES)}
        return nn.Sequential(OrderedDict(layers))
