"""What a way of learning from others must say. Plain synchronous torch: no I/O, no asyncio, no clock.

A strategy is two plain objects away from a test: every method runs without a network, in one process.
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
    """A question as the provider's strategy sees it: who asks, and what."""

    consumer: Card
    question: Question


class Strategy(Protocol):
    """One method of learning from others.

    Called on the learner's thread, one call at a time. Only `answer` runs elsewhere, beside training: it gets a
    snapshot, must be pure, and must not touch the learner. Everything that touches the model is called inside
    `learner.tentative()`: raising leaves model, optimizer and generators as they were.
    """

    name: ClassVar[str]
    shares_answers: ClassVar[bool]
    """Whether an answer goes by the snapshot and by what the query wants and selects, and by nothing else: all who ask
    alike are then given the same one, made once."""

    @property
    def needs(self) -> frozenset[Exposure]:
        """What a provider must show for this method to learn from it."""
        ...

    @property
    def exposes(self) -> frozenset[Exposure]:
        """What this peer shows by answering and asking. Never more than this crosses the wire."""
        ...

    def paced(self, *, lockstep: bool) -> None:
        """Told once, before anything else is asked of it, whether the peer runs in lockstep: a method whose default is
        not repeatable may choose one that is."""
        ...

    @property
    def schedule(self) -> Schedule:
        """The method's own default; the configuration may override it."""
        ...

    def check(self, learner: Learner) -> None:
        """Raise ConfigError or LearnerError when this method cannot work with this model or data at all."""
        ...

    def misfit(self, learner: Learner, provider: Card) -> str | None:
        """Why this provider cannot teach this learner by this method, in one sentence; None when it can."""
        ...

    def prefer(self, learner: Learner, candidates: Sequence[Card]) -> Sequence[str] | None:
        """Ids of those of the candidates (fitting, alive, in id order) to ask, best first; None: let the cards decide
        (orchestrator.selection, by the pairwise paper's appendix A)."""
        ...

    def ask(self, learner: Learner, provider: Card) -> Question | Sequence[Question]:
        """What I want from this provider, and what I bring it; several questions are asked one after another.

        A query may name the version that is held (`have`); when the answer is "not modified" nothing is absorbed.
        """
        ...

    def histogram(self, learner: Learner) -> tuple[int, ...]:
        """Labelled samples seen per class, for the card, renewed with each snapshot; shown only if exposed."""
        ...

    def publish(self, learner: Learner) -> Any:
        """An immutable value that travels with the next snapshot and that `answer` will need; None for most."""
        ...

    def answer(self, snapshot: Snapshot, asked: Asked) -> Answer:
        """Pure: changes neither parameters, buffers, grads, optimizer nor generators."""
        ...

    def absorb(self, learner: Learner, received: Sequence[Received]) -> None:
        """Validate and keep, or learn at once. In provider-id order; idempotent per (sender, version, member).

        Raises KnowledgeError for knowledge that does not fit, before anything is changed.
        """
        ...

    def forget(self, provider: str) -> None:
        """This provider is gone or put aside: its knowledge is not to be used in coming transfers."""
        ...

    def extra_loss(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """A term for local steps, or None."""
        ...

    @property
    def resumable(self) -> bool:
        """Whether a local span may be cut in two between any two steps, and the parts come to the same bits as the
        whole: then it can be saved on the way."""
        ...

    def local(self, learner: Learner, span: Span) -> Report:
        """Train on own labels."""
        ...

    def transfer(self, learner: Learner, span: Span) -> Report:
        """Train with what was absorbed. With nothing absorbed: a report of no steps, and nothing changed."""
        ...

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        """What a user gets: probabilities (B, C)."""
        ...

    def state_dict(self) -> Mapping[str, Any]:
        """Everything needed to go on to the same bits: tensors, numbers, strings, lists and dicts of these."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclass
@runtime_checkable
class Separable(Protocol):
    """A method whose transfer mixes what several have brought, so that nobody can be asked apart: it can be mixed again
    without some of them, to find out who does harm."""

    def transfer_without(self, learner: Learner, absent: Collection[str]) -> Report:
        """The last transfer again without these. No providers: there is nothing to repeat, or too little is left."""

    def transfer_done(self) -> None:
        """The last transfer is judged: what it was made of need not be kept."""


class Base:
    """The usual answers. A strategy overrides what differs; inherit for these, not for identity."""

    shares_answers: ClassVar[bool] = False

    def paced(self, *, lockstep: bool) -> None:
        return None

    def check(self, learner: Learner) -> None:
        return None

    def misfit(self, learner: Learner, provider: Card) -> str | None:
        return None

    def prefer(self, learner: Learner, candidates: Sequence[Card]) -> Sequence[str] | None:
        return None

    def histogram(self, learner: Learner) -> tuple[int, ...]:
        return learner.describe().histogram

    def publish(self, learner: Learner) -> Any:
        return None

    def forget(self, provider: str) -> None:
        return None

    def extra_loss(self, model: nn.Module, batch: Batch) -> Tensor | None:
        return None

    @property
    def resumable(self) -> bool:
        """So it is, of the span below; a strategy that trains its own way has to say it of its own."""
        return type(self).local is Base.local

    def local(self, learner: Learner, span: Span) -> Report:
        adds = type(self).extra_loss is not Base.extra_loss
        return learner.fit(span, extra_loss=self.extra_loss if adds else None)

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        return learner.predict(x)

    def state_dict(self) -> Mapping[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        return None


def prefers(strategy: Strategy) -> bool:
    """Whether it may prefer some providers to others, by a rule of its own."""
    return getattr(type(strategy), "prefer", None) is not Base.prefer
