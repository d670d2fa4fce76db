"""Learning alone: the control beside which every other method is read. Asks nobody, shows nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from peerlearn.errors import ConfigError
from peerlearn.knowledge import Answer, Query, Question, Received
from peerlearn.learning.learner import Learner
from peerlearn.learning.report import Report
from peerlearn.learning.snapshot import Snapshot
from peerlearn.schedule import Local, Schedule
from peerlearn.strategies.answers import not_mine
from peerlearn.strategies.base import Asked, Base
from peerlearn.types import Card, Exposure, Span, epochs


@dataclass
class Isolated(Base):
    """`passes`: epochs per round. Two, so that a round passes over the private data as often as a round of the methods
    that follow a local epoch by a transfer epoch."""

    name: ClassVar[str] = "isolated"
    answers_alike: ClassVar[bool] = True

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
