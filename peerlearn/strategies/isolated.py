"""Learning alone, plain or class-balanced: the controls for all other methods. They ask no provider and show
nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peerlearn.errors import ConfigError, LearnerError
from peerlearn.knowledge import Answer, Query, Question, Received
from peerlearn.learning import losses
from peerlearn.learning.learner import Batch, Learner
from peerlearn.learning.report import Report
from peerlearn.learning.snapshot import Snapshot
from peerlearn.schedule import Local, Schedule
from peerlearn.strategies.base import Asked, Base
from peerlearn.strategies.shared.answers import not_mine
from peerlearn.types import Card, Exposure, Span, epochs


@dataclass
class Isolated(Base):
    """`passes`: epochs per round. Two, because a round of the transfer methods also passes twice over the private data:
    a local epoch and a transfer epoch."""

    name: ClassVar[str] = "isolated"
    shares_answers: ClassVar[bool] = True

    passes: int = 2

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise ConfigError(f"isolated: passes must be at least 1, not {self.passes}")

    @property
    def needs(self) -> frozenset[Exposure]:
        return frozenset()

    @property
    def exposes(self) -> frozenset[Exposure]:
        return frozenset()

    @property
    def schedule(self) -> Schedule:
        return Schedule(cycle=(Local(epochs(self.passes)),))

    def misfit(self, learner: Learner, provider: Card) -> str | None:
        return "this peer learns alone"

    def ask(self, learner: Learner, provider: Card) -> Question:
        return Question(Query(want="nothing"))

    def answer(self, snapshot: Snapshot, asked: Asked) -> Answer:
        return not_mine(self.name, asked.question.query)

    def absorb(self, learner: Learner, received: Sequence[Received]) -> None:
        return None

    def transfer(self, learner: Learner, span: Span) -> Report:
        return Report()


@dataclass
class IsolatedBalanced(Isolated):
    """Class-balanced learning alone: the control for methods that move a model from its own classes towards all
    classes.

    Rare classes count as much as frequent ones. The loss of a batch is sum_b w_y(b) CE_b / sum_b w_y(b), with w_c = N /
    (K n_c) from the private histogram: n_c of N samples have class c, and K classes occur. A round has as many passes
    as Isolated's.
    """

    name: ClassVar[str] = "isolated-balanced"

    def check(self, learner: Learner) -> None:
        if learner.loss is not F.cross_entropy:
            raise LearnerError(f"{self.name} weighs cross-entropy; this learner has a loss of its own: use isolated")

    def local(self, learner: Learner, span: Span) -> Report:
        weight = losses.balanced_weights(torch.tensor(learner.describe().histogram)).to(learner.device)

        def balanced(model: nn.Module, batch: Batch) -> Tensor:
            logits = model(batch.x)
            return F.cross_entropy(logits, batch.y, weight=weight.to(logits.dtype))

        return learner.fit(span, loss=balanced)
