"""The recommended method: per provider the route that fits, with its result checked on held-out data.

It combines methods that were measured here (docs/results.md). Local training under a uniform prior makes models of
skewed data comparable (balanced softmax, Ren et al. 2020; logit adjustment, Menon et al. 2021). Models with a common
architecture and start are averaged (McMahan et al. 2017). Other providers teach by pooled outputs on a public set
(FedDF, Lin et al. 2020). An ensemble of the last averages predicts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from peerlearn.errors import ConfigError, KnowledgeError
from peerlearn.knowledge import Answer, Outputs, Params, Query, Question, Received
from peerlearn.learning.dataset import Unlabelled
from peerlearn.learning.interruption import Diverged
from peerlearn.learning.learner import Batch, Learner
from peerlearn.learning.report import Report
from peerlearn.learning.snapshot import Snapshot
from peerlearn.schedule import Exchange, Local, Publish, Schedule, Transfer
from peerlearn.strategies.auto.ensemble import Ensemble, as_it_is
from peerlearn.strategies.auto.logit_adjustment import AdjustedLoss, likelihood
from peerlearn.strategies.auto.model_selection import select_models
from peerlearn.strategies.auto.pooling import Pools
from peerlearn.strategies.auto.utility import Per, Utility
from peerlearn.strategies.base import Asked, Base
from peerlearn.strategies.shared import averaging, robust, routes, teacher_checks
from peerlearn.strategies.shared.averaging import Inbox, Piece
from peerlearn.strategies.shared.options import check_choices, check_least
from peerlearn.strategies.shared.public_teachers import check_outputs
from peerlearn.strategies.shared.routes import Via, route_to
from peerlearn.strategies.shared.teacher_memory import TeacherMemory, conditional
from peerlearn.types import Card, Exposure, Span, epochs


@dataclass
class Auto(Base):
    """A peer learns from each provider by the first route that fits:

    * its parameters, averaged with the peer's own, weighted by numbers of samples. Needs the same architecture, the
      same start, and a provider that shows parameters;
    * its outputs on a public set that both hold. The log-probabilities of all such providers and of the peer itself are
      pooled, and the model learns from the pool as much as from its own labels.

    `via` params or outputs allows that route only, and shows nothing of the other. An average leaves out a model that
    clearly harms it on held-out data (`model_selection.py`). Each provider's gain per cost decides the order of asking
    when not all can be asked; `per`: the cost, byte or second; `second` is not repeatable. `ensemble`: rounds whose
    models predict together, each with its state before and after the average. With 0 the present model predicts alone,
    as it does where nothing is averaged: models that learn from one pool make the same errors. `smoothing`: of own
    labels. `sharpness`: power to which the pool's probabilities are raised; above 1 the pool is more confident than its
    members, also in its errors.

    Predictions assume all classes equally often, whatever the private data holds. Turn the dial for another prior.
    """

    name: ClassVar[str] = "auto"
    shares_answers: ClassVar[bool] = True

    via: Via = "auto"
    per: Per = "byte"
    ensemble: int = 3
    smoothing: float = 0.1
    sharpness: float = 1.0

    _inbox: Inbox = field(default_factory=Inbox, init=False, repr=False)
    _memory: TeacherMemory = field(default_factory=TeacherMemory, init=False, repr=False)
    _members: Ensemble = field(init=False, repr=False)
    _utility: Utility = field(init=False, repr=False)
    _positions: dict[str, Sequence[int]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_choices(self.name, self, {"via": ("auto", "params", "outputs"), "per": ("byte", "second")})
        check_least(self.name, self, {"ensemble": 0})
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"auto: smoothing must be at least 0 and below 1, not {self.smoothing}")
        if not 0 < self.sharpness <= 100:
            raise ConfigError(f"auto: sharpness must be positive and at most 100, not {self.sharpness}")
        self._members = Ensemble(2 * self.ensemble)
        self._utility = Utility(self.per)

    # ---- exposures and schedule

    @property
    def needs(self) -> frozenset[Exposure]:
        return routes.needed(self.via)

    @property
    def exposes(self) -> frozenset[Exposure]:
        return routes.shown(self.via)

    @property
    def schedule(self) -> Schedule:
        return Schedule(cycle=(Local(epochs(1)), Publish(), Exchange(early=False), Transfer(epochs(1))))

    def check(self, learner: Learner) -> None:
        if self.via == "outputs" and not learner.public_sets:
            raise ConfigError("auto via outputs needs a public set: give one with Learner(public_sets=[...])")

    def misfit(self, learner: Learner, provider: Card) -> str | None:
        way = route_to(learner, provider, self.via)
        return way if isinstance(way, str) else None

    def prefer(self, learner: Learner, candidates: Sequence[Card]) -> Sequence[str] | None:
        return self._utility.ranked(candidates)

    # ---- the exchange

    def ask(self, learner: Learner, provider: Card) -> Question:
        way = route_to(learner, provider, self.via)
        if isinstance(way, str):
            raise KnowledgeError(way)
        if way is None:
            return Question(conditional(Query(want="params"), self._inbox.heard(provider), provider))
        return Question(conditional(routes.outputs_on(way), self._memory.version_of(provider, Outputs), provider))

    def publish(self, learner: Learner) -> tuple[Unlabelled, ...]:
        return learner.public_sets

    def answer(self, snapshot: Snapshot, asked: Asked) -> Answer:
        return routes.answered(self.name, self.via, snapshot, asked.question.query)

    def absorb(self, learner: Learner, received: Sequence[Received]) -> None:
        params = self._inbox.new([each for each in received if isinstance(each.knowledge, Params)])
        outputs = [e for e in received if isinstance(e.knowledge, Outputs) and self._memory.is_new(e)]
        for each in params:
            teacher_checks.check_teacher(learner, averaging.admitted(learner, each), seen=each.sender.histogram)
        for each in outputs:
            assert isinstance(each.knowledge, Outputs)
            check_outputs(learner, each.knowledge)
        for each in params:
            self._inbox.put(each, teacher_checks.dense(each.knowledge))
            self._memory.forget(each.sender.id)  # its outputs from before it could be averaged with are out of date
        for each in outputs:
            self._memory.keep(each)
        for each in (*params, *outputs):
            self._utility.cost(each.sender.id, nbytes=each.received_bytes, seconds=each.seconds)

    def forget(self, provider: str) -> None:
        self._inbox.forget(provider)
        self._memory.forget(provider)

    # ---- learning

    @property
    def resumable(self) -> bool:
        return True

    def local(self, learner: Learner, span: Span) -> Report:
        return learner.fit(span, loss=AdjustedLoss(learner, self.smoothing))

    def transfer(self, learner: Learner, span: Span) -> Report:
        """Average, which makes no steps; then learn from the pool for a span, if there is one. Waiting models count as
        used, and the ensemble gets new members, only after all of it has succeeded."""
        pieces, kept = self._inbox.waiting(), list(self._memory)
        if not pieces and not kept:
            return Report()
        earlier = as_it_is(learner)
        gains, notes = self._average(learner, pieces) if pieces else ({}, {})
        outputs = {each.sender: each.knowledge for each in kept if isinstance(each.knowledge, Outputs)}
        report, more = self._distil(learner, span, outputs) if outputs else (Report(), {})
        self._inbox.take()
        self._utility.gained({**gains, **more})
        if pieces:
            self._members.join(earlier)
        else:
            self._members.dismiss()
        if pieces and report.committed:
            self._members.join(as_it_is(learner))
        gain, nbytes, seconds = self._utility.totals()
        spent = {"gain": gain, "cost_megabytes": nbytes / 1e6, "cost_seconds": seconds}
        providers = sorted({*(piece.sender for piece in pieces), *outputs})
        return replace(report, providers=tuple(providers), notes={**report.notes, **notes, **spent})

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        return self._members.predict(learner, x)

    def state_dict(self) -> Mapping[str, Any]:
        return {
            "inbox": self._inbox.state_dict(),
            "memory": self._memory.state_dict(),
            "members": self._members.state_dict(),
            "utility": self._utility.state_dict(),
            "positions": dict(self._positions),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._inbox.load_state_dict(state["inbox"])
        self._memory.load_state_dict(state["memory"])
        self._members.load_state_dict(state["members"])
        self._utility.load_state_dict(state["utility"])
        self._positions = dict(state["positions"])

    # ---- averaging and distillation, with the gain of each provider

    def _average(self, learner: Learner, pieces: Sequence[Piece]) -> tuple[dict[str, float], dict[str, float]]:
        """Replace the weights by the mean of all models but the harmful ones. Returns the gain of each provider, and
        notes."""
        mine = Piece("", "", 0, sum(learner.describe().histogram), averaging.own(learner))
        everybody = averaging.in_common_order([mine, *pieces])
        counted = all(piece.samples for piece in everybody)

        def mean(places: Sequence[int]) -> dict[str, Tensor]:
            chosen = [everybody[place] for place in places]
            return robust.mean([p.tensors for p in chosen], [p.samples for p in chosen] if counted else None)

        selection = select_models(learner, mean, len(everybody), mine=everybody.index(mine))
        learner.overwrite(mean(selection.keep))
        gains = {
            piece.sender: gain for piece, gain in zip(everybody, selection.gains, strict=True) if piece is not mine
        }
        return gains, {"averaged": float(len(selection.keep)), "left_out": float(len(everybody) - len(selection.keep))}

    def _distil(self, learner: Learner, span: Span, outputs: Mapping[str, Outputs]) -> tuple[Report, dict[str, float]]:
        """Train for a span on own labels and on the pool of these outputs, given by sender. Returns the report, and the
        gain split equally among the senders."""
        before = likelihood(learner)
        own = AdjustedLoss(learner, self.smoothing)
        pools = Pools(learner, list(outputs.values()), self.sharpness, self._positions)

        def objective(model: nn.Module, batch: Batch) -> Tensor:
            value = own(model, batch)
            for distance in pools.distances(model):
                value = value + distance / len(pools)
            return value

        mark = learner.mark()
        try:
            report = learner.fit(span, loss=objective)
        except Diverged:
            learner.restore(mark)
            return Report(committed=False), {}
        self._positions |= pools.positions()
        gain = (likelihood(learner) - before) / len(outputs)
        return report, dict.fromkeys(outputs, gain)
