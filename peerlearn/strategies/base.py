"""The contract of a strategy. Strategies are plain synchronous torch code: no I/O, no asyncio, no clock.

Every method runs without a network, in one process. A test needs a learner and a strategy, and no peer.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from peerlearn.knowledge import Answer, Question, Received
from peerlearn.learning.learner import Batch, Learner
from peerlearn.learning.report import Report
from peerlearn.learning.snapshot import Snapshot
from peerlearn.schedule import Schedule
from peerlearn.types import Card, Exposure, Span


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as the provider's strategy gets it, with the consumer's card."""

    consumer: Card
    question: Question


class Strategy(Protocol):
    """One method of learning from other peers.

    All calls are made on the learner's thread, one at a time, but for `answer`. That one runs beside training: it gets
    a snapshot, must be pure, and must not touch the learner. Every call that touches the model is made inside
    `learner.tentative()`: when it raises, model, optimizer and generators are restored.

    `peerlearn.testing.conformance.strategy` checks these promises.
    """

    name: ClassVar[str]
    """Name of the method for peers and users. Only peers with the same strategy exchange knowledge."""
    shares_answers: ClassVar[bool]
    """True if `answer` depends only on (snapshot, query.want, query.select); answers are then cached and shared between
    consumers."""

    @property
    def needs(self) -> frozenset[Exposure]:
        """The exposures that a provider must allow for this method to learn from it."""
        ...

    @property
    def exposes(self) -> frozenset[Exposure]:
        """The exposures that this peer's answers and questions use. Nothing else crosses the wire."""
        ...

    def paced(self, *, lockstep: bool) -> None:
        """Tells the strategy whether the peer runs in lockstep. Called once, before all other calls, so that a method
        whose default is not repeatable can choose one that is."""
        ...

    @property
    def schedule(self) -> Schedule:
        """The method's default schedule; the configuration may override it."""
        ...

    def check(self, learner: Learner) -> None:
        """Raises ConfigError or LearnerError when this method cannot work with this model or data at all."""
        ...

    def misfit(self, learner: Learner, provider: Card) -> str | None:
        """One sentence about why this provider cannot teach this learner by this method; None when it can."""
        ...

    def prefer(self, learner: Learner, candidates: Sequence[Card]) -> Sequence[str] | None:
        """Ids of the candidates to ask, best first; None: `orchestrator.consumer.selection` ranks them by their cards
        (appendix A of the pairwise paper). `candidates`: the providers that fit and are alive, in id order."""
        ...

    def ask(self, learner: Learner, provider: Card) -> Question | Sequence[Question]:
        """The question for this provider, with the knowledge that it brings. Several questions are asked one after
        another.

        A query may name the version that the consumer holds (`have`). If the answer is then "not modified", nothing is
        absorbed.
        """
        ...

    def histogram(self, learner: Learner) -> tuple[int, ...]:
        """Labelled samples seen per class, for the card. Asked again with each snapshot; shown only if exposed."""
        ...

    def publish(self, learner: Learner) -> Any:
        """An immutable value to store in the next snapshot, for `answer`; None for most methods."""
        ...

    def answer(self, snapshot: Snapshot, asked: Asked) -> Answer:
        """The knowledge that was asked for, or a refusal. Pure: changes neither parameters, buffers, gradients,
        optimizer nor generators. A KnowledgeError raised here reaches the consumer as a refusal."""
        ...

    def absorb(self, learner: Learner, received: Sequence[Received]) -> None:
        """Check knowledge, and keep it or learn from it at once. Called in provider-id order. Idempotent per (sender,
        version, member).

        Raises KnowledgeError, before anything is changed, for knowledge that does not fit.
        """
        ...

    def forget(self, provider: str) -> None:
        """Use no knowledge of this provider, given by its id, in future transfers: it has left or is quarantined."""
        ...

    def extra_loss(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """A scalar to add to the loss of local steps; None: nothing."""
        ...

    @property
    def resumable(self) -> bool:
        """True if a local span gives the same bits when it is cut between any two steps. It can then be saved
        half-way."""
        ...

    def local(self, learner: Learner, span: Span) -> Report:
        """Train on own labels. Raises Interrupted, Diverged or LearnerError."""
        ...

    def transfer(self, learner: Learner, span: Span) -> Report:
        """Train with the absorbed knowledge. With none absorbed the report has no steps, and nothing changes. Raises
        Interrupted or LearnerError, and KnowledgeError for knowledge that cannot be used."""
        ...

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        """Probabilities (B, C) on the CPU for inputs (B, ...): what a user of the peer gets."""
        ...

    def state_dict(self) -> Mapping[str, Any]:
        """Everything needed to continue to the same bits: tensors, numbers, strings, and lists and dicts of these."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the result of `state_dict`. After a rolled-back transfer the strategy may remember which
        knowledge it has used, so that the same knowledge is not tried again."""
        ...


@runtime_checkable
class Separable(Protocol):
    """A strategy whose transfer mixes the knowledge of several providers, and can mix again without some of them. This
    finds the providers that do harm.

    A strategy is recognised by having both methods; there is nothing to inherit.
    """

    def transfer_without(self, learner: Learner, absent: Collection[str]) -> Report:
        """Repeat the last transfer from the model before it, without the providers `absent` (ids). A report without
        providers means that there is nothing to repeat, or too little knowledge is left."""
        ...

    def transfer_done(self) -> None:
        """The last transfer has been judged, so its knowledge need not be kept."""
        ...


class Base:
    """Defaults for the calls of `Strategy`. A strategy overrides what differs. Nothing checks whether a class inherits
    from this one."""

    shares_answers: ClassVar[bool] = False

    def paced(self, *, lockstep: bool) -> None:
        """Ignores the pace."""
        return None

    def check(self, learner: Learner) -> None:
        """Works with every model and data set."""
        return None

    def misfit(self, learner: Learner, provider: Card) -> str | None:
        """Every provider fits."""
        return None

    def prefer(self, learner: Learner, candidates: Sequence[Card]) -> Sequence[str] | None:
        """No preference: the cards decide."""
        return None

    def histogram(self, learner: Learner) -> tuple[int, ...]:
        """The class counts of the private set, one count per class."""
        return learner.describe().histogram

    def publish(self, learner: Learner) -> Any:
        """Nothing travels with a snapshot."""
        return None

    def forget(self, provider: str) -> None:
        """Holds no knowledge of providers, so there is nothing to drop."""
        return None

    def extra_loss(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """Nothing to add."""
        return None

    @property
    def resumable(self) -> bool:
        """True for the `local` of this class. A strategy that overrides `local` must decide for its own."""
        return type(self).local is Base.local

    def local(self, learner: Learner, span: Span) -> Report:
        """Plain training, with the strategy's `extra_loss` if it overrides that."""
        adds = type(self).extra_loss is not Base.extra_loss
        return learner.fit(span, extra_loss=self.extra_loss if adds else None)

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        """The model's own probabilities (B, C)."""
        return learner.predict(x)

    def state_dict(self) -> Mapping[str, Any]:
        """Nothing to save."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing was saved."""
        return None


def prefers(strategy: Strategy) -> bool:
    """True if this strategy ranks its providers by a rule of its own."""
    return getattr(type(strategy), "prefer", None) is not Base.prefer
