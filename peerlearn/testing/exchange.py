"""One exchange by direct calls: two learners, two strategies, and no network."""

import hashlib
from typing import TypeAlias

from torch import Tensor

from peerlearn.knowledge import Knowledge, NotModified, Question, Received, Refusal
from peerlearn.learning.learner import Learner
from peerlearn.learning.snapshot import Snapshot
from peerlearn.strategies.base import Asked, Strategy
from peerlearn.types import Card, PeerId

Member: TypeAlias = tuple[str, Learner, Strategy]
"""A peer without a network: name, learner, strategy."""


def tiny_id(name: str) -> PeerId:
    """The id of a peer without a key: 32 hex digits made from its name. Ids are not in the order of names."""
    return PeerId(hashlib.sha256(name.encode()).hexdigest()[:32])


def tiny_card(name: str, learner: Learner, strategy: Strategy, *, version: int = 0, session: str = "s1") -> Card:
    """The card that such a peer would show, unsigned; class counts of the private set included."""
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


def snapshot(learner: Learner, strategy: Strategy, version: int = 1) -> Snapshot:
    """A snapshot of the learner as it is now, with what the strategy publishes."""
    return learner.snapshot(version, strategy.publish(learner))


def give(consumer: Member, provider: Member, shown: Snapshot) -> Received | NotModified | Refusal:
    """One exchange: ask, answer from the snapshot, and what the consumer would absorb. For strategies that ask one
    question of a provider."""
    card = tiny_card(*provider, version=shown.version)
    question = consumer[2].ask(consumer[1], card)
    assert isinstance(question, Question)
    answer = provider[2].answer(shown, Asked(tiny_card(*consumer), question))
    if isinstance(answer, NotModified | Refusal):
        return answer
    return Received(card, answer, question.query)


def received(consumer: Member, provider: Member, *, version: int = 1) -> Received:
    """The same, from a fresh snapshot. Raises AssertionError when the provider gives nothing."""
    got = give(consumer, provider, snapshot(provider[1], provider[2], version))
    assert isinstance(got, Received), got
    return got


def tensors_of(knowledge: Knowledge) -> dict[str, Tensor]:
    """The dense tensors of this knowledge, by name."""
    return {name: t for name, t in knowledge.tensors.items() if isinstance(t, Tensor)}
