"""Gossip averaging: after each local epoch peers meet in pairs, and both continue with the mean of their weights.

Boyd et al. 2006, "Randomized gossip algorithms": theta_i, theta_j <- (theta_i + theta_j) / 2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from peerlearn.knowledge import Answer, Query, Question, Received
from peerlearn.learning.learner import Learner
from peerlearn.learning.report import Report
from peerlearn.learning.snapshot import Snapshot
from peerlearn.schedule import Schedule
from peerlearn.strategies.base import Asked, Base
from peerlearn.strategies.shared import answers, averaging, robust, teacher_checks
from peerlearn.strategies.shared.averaging import Inbox
from peerlearn.strategies.shared.meetings import Meetings, Pairing
from peerlearn.types import Card, Exposure, Span


@dataclass
class Gossip(Base):
    """`pairing` lot: Boyd's asynchronous model, for peers in free pace. Each peer draws a neighbour at random. The
    average is exact when that neighbour is between two spans; during a span it answers with its weights from before.
    `pairs`: the synchronous model, for lockstep, with the same bits in every run; with an odd number of peers one has
    no partner.

    Floating tensors are averaged in float64, BatchNorm's running statistics included, but never its batch counter. The
    optimizer's state for them is dropped. When the gate rolls a meeting back at one peer only, that pair does not keep
    the mean of all weights.
    """

    name: ClassVar[str] = "gossip"
    shares_answers: ClassVar[bool] = True

    pairing: Pairing = "auto"

    _inbox: Inbox = field(default_factory=Inbox, init=False, repr=False)

    def __post_init__(self) -> None:
        self._meetings = Meetings(self.name, self.pairing)

    @property
    def needs(self) -> frozenset[Exposure]:
        return frozenset({Exposure.PARAMS_FULL})

    @property
    def exposes(self) -> frozenset[Exposure]:
        return frozenset({Exposure.PARAMS_FULL})

    @property
    def schedule(self) -> Schedule:
        return self._meetings.schedule

    def paced(self, *, lockstep: bool) -> None:
        self._meetings.paced(lockstep=lockstep)

    def misfit(self, learner: Learner, provider: Card) -> str | None:
        return averaging.unfit(learner, provider)

    def ask(self, learner: Learner, provider: Card) -> Question:
        query = Query(want="params")
        if self._meetings.in_pairs:
            return Question(query)
        return Question(query, brings=averaging.brought(averaging.shown(learner, self.publish)))

    def answer(self, snapshot: Snapshot, asked: Asked) -> Answer:
        query = asked.question.query
        if query.want == "params" and not query.select:
            return answers.whole_model(snapshot)
        return answers.not_mine(self.name, query)

    def absorb(self, learner: Learner, received: Sequence[Received]) -> None:
        new = self._inbox.new(received)
        for each in new:
            knowledge = averaging.admitted(learner, each)
            teacher_checks.check_teacher(learner, knowledge, seen=each.sender.histogram)
        for each in new:
            self._inbox.put(each, teacher_checks.dense(each.knowledge))

    def forget(self, provider: str) -> None:
        self._inbox.forget(provider)

    def transfer(self, learner: Learner, span: Span) -> Report:
        """Replace the weights by the mean of the peer's present weights and all waiting models; makes no steps."""
        pieces = self._inbox.take()
        if not pieces:
            return Report()
        learner.overwrite(robust.mean([averaging.own(learner), *(piece.tensors for piece in pieces)]))
        return Report(providers=tuple(piece.sender for piece in pieces))

    def state_dict(self) -> Mapping[str, Any]:
        return self._inbox.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._inbox.load_state_dict(state)
