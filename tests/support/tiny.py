"""Tiny learners and data for everybody's tests: milliseconds to train, real in every other way."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peerlearn.knowledge import Knowledge, NotModified, Question, Received, Refusal
from peerlearn.learning.dataset import Dataset
from peerlearn.learning.learner import Learner
from peerlearn.learning.models import MLP
from peerlearn.learning.sampler import seeded_rng
from peerlearn.learning.snapshot import Snapshot
from peerlearn.strategies.base import Asked, Strategy
from peerlearn.types import Card, PeerId

CLASSES = 4
DIMS = 8


def tiny_data(
    *, samples: int = 96, classes: int = CLASSES, seed: int = 0, only: Sequence[int] | None = None
) -> Dataset:
    """Blobs: x float32 (N, DIMS) around a centre per class; the centres are the same for every seed."""
    source = seeded_rng("blobs", seed)
    centres = torch.randn(classes, DIMS, generator=seeded_rng("centres"))
    y = torch.arange(samples) % classes if only is None else torch.tensor(only)[torch.arange(samples) % len(only)]
    x = centres[y] * 2 + torch.randn(samples, DIMS, generator=source)
    return Dataset(x, y, torch.arange(samples), classes, "blobs")


def tiny_model(*, seed: int = 0, hidden: Sequence[int] = (8, 8), classes: int = CLASSES) -> MLP:
    """Layers body.0, penult (8 x 8), fc."""
    return MLP(DIMS, hidden, classes=classes, seed=seed)


class Normed(nn.Module):
    """With buffers and chance: batch normalisation and dropout. Layers body, norm, penult, fc."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        inner = tiny_model(seed=seed)
        self.body, self.norm, self.drop = inner.body[0], nn.BatchNorm1d(8), nn.Dropout(0.25)
        self.penult, self.fc = inner.penult, inner.fc

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(torch.relu(self.norm(self.body(x))))
        logits: Tensor = self.fc(torch.relu(self.penult(h)))
        return logits


def tiny_learner(seed: int = 0, *, start: int = 0, model: nn.Module | None = None, **options: Any) -> Learner:
    """`seed` decides data and order, `start` the weights."""
    data = options.pop("data", None) or tiny_data(seed=seed)
    return Learner(
        model or tiny_model(seed=start), data, **{"batch_size": 16, "seed": seed, "classes": CLASSES, **options}
    )


def tiny_card(name: str, learner: Learner, strategy: Strategy, *, version: int = 0, session: str = "s1") -> Card:
    """The id is 32 hex digits made from the name; "a" < "b" by name need not hold for ids."""
    facts = learner.describe()
    return Card(
        id=tiny_id(name),
        name=name,
        session=session,
        classes=facts.classes,
        histogram=facts.histogram,
        architecture=facts.architecture,
        start=facts.start,
        layers=facts.layers,
        strategy=strategy.name,
        exposes=strategy.exposes,
        public_sets=facts.public_sets,
        version=version,
    )


def tiny_id(name: str) -> PeerId:
    return PeerId(hashlib.sha256(name.encode()).hexdigest()[:32])


def snapshot(learner: Learner, strategy: Strategy, version: int = 1) -> Snapshot:
    return learner.snapshot(version, strategy.publish(learner))


def give(
    consumer: tuple[str, Learner, Strategy], provider: tuple[str, Learner, Strategy], shown: Snapshot
) -> Received | NotModified | Refusal:
    """One exchange by direct calls: ask, answer, and what the consumer would absorb."""
    card = tiny_card(*provider, version=shown.version)
    question = consumer[2].ask(consumer[1], card)
    assert isinstance(question, Question)
    answer = provider[2].answer(shown, Asked(tiny_card(*consumer), question))
    if isinstance(answer, NotModified | Refusal):
        return answer
    return Received(card, answer, question.query)


def received(
    consumer: tuple[str, Learner, Strategy], provider: tuple[str, Learner, Strategy], *, version: int = 1
) -> Received:
    """The same, from a fresh snapshot; fails when the provider refuses."""
    got = give(consumer, provider, snapshot(provider[1], provider[2], version))
    assert isinstance(got, Received), got
    return got


def bits(value: Any) -> str:
    """A digest of a tree of dicts, lists, tuples, tensors and plain values: equal only for the same bits."""
    digest = hashlib.sha256()

    def feed(node: Any) -> None:
        if isinstance(node, Tensor):
            digest.update(f"{node.dtype}{tuple(node.shape)}".encode())
            digest.update(node.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(node, Mapping):
            for key in sorted(node, key=str):
                digest.update(f"[{key}]".encode())
                feed(node[key])
        elif isinstance(node, list | tuple):
            for each in node:
                digest.update(b",")
                feed(each)
        else:
            digest.update(repr(node).encode())

    feed(value)
    return digest.hexdigest()


def everything(learner: Learner) -> str:
    """Digest of all that a strategy could change: state, buffers, grads, modes, optimizer, generators, position."""
    model = learner.model
    return bits(
        [
            learner.state_dict(),
            dict(model.named_buffers()),
            [None if p.grad is None else p.grad for p in model.parameters()],
            [m.training for m in model.modules()],
            torch.get_rng_state(),
        ]
    )


def weights(learner: Learner) -> str:
    return bits(learner.state)


def tensors_of(knowledge: Knowledge) -> dict[str, Tensor]:
    return {name: t for name, t in knowledge.tensors.items() if isinstance(t, Tensor)}
