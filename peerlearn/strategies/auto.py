"""The method for those who have not read five papers: per provider the way that fits, proved before it is believed.

Composed of what has been measured here (docs/results.md): local training under a uniform prior (balanced softmax, Ren
et al. 2020; logit adjustment, Menon et al. 2021), so that models of skewed data can be compared and combined at all;
federated averaging (McMahan et al. 2017) where architecture and start agree; distillation from the pooled outputs of
all on a public set (FedDF, Lin et al. 2020) where they do not; and a committee of one's own last models to predict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peerlearn.errors import ConfigError, KnowledgeError
from peerlearn.knowledge import Answer, Outputs, Params, Query, Question, Received
from peerlearn.learning import losses
from peerlearn.learning.data import Unlabelled
from peerlearn.learning.errors import Diverged
from peerlearn.learning.learner import Batch, Learner
from peerlearn.learning.order import Order
from peerlearn.learning.report import Report
from peerlearn.learning.snapshot import Snapshot
from peerlearn.schedule import Exchange, Local, Publish, Schedule, Transfer
from peerlearn.strategies import answers, averaging, robust, teaching
from peerlearn.strategies.averaging import Inbox, Piece
from peerlearn.strategies.base import Asked, Base
from peerlearn.strategies.committee import Committee
from peerlearn.strategies.ledger import Ledger, Per
from peerlearn.strategies.memory import Kept, Memory, conditional
from peerlearn.strategies.proof import prove
from peerlearn.strategies.public import BATCH, check_outputs, held_set
from peerlearn.types import Card, Exposure, Span, epochs

_POOL_WEIGHT = 2.0
"""Of the distance to the pool beside the loss on own labels: 2 was better than 1 in the first trials."""

Via = Literal["auto", "params", "outputs"]


@dataclass
class Auto(Base):
    """Each provider is learned from by the first way that fits:

    * its parameters, averaged with one's own by numbers of samples: same architecture, same start, parameters shown;
    * its outputs on a public set that both hold: everybody's log-probabilities there, one's own included, are pooled,
      and the model learns from the pool beside its own labels.

    `via` params or outputs allows one way only, and shows nothing of the other. An average leaves out a model that
    harms it beyond doubt on held-out data (strategies/proof.py). What each provider's knowledge gained is held against
    its price, `per` byte or second, and decides whom to ask first when not all can be asked; `per` second is not
    repeatable. `committee`: rounds whose models predict together, each with two; 0: the present model alone.
    `smoothing`: of own labels; `sharpness`: power to which the pool's probabilities are raised.

    Predictions are for all classes equally often, whatever the private data holds: turn the dial for another prior.
    """

    name: ClassVar[str] = "auto"

    via: Via = "auto"
    per: Per = "byte"
    committee: int = 3
    smoothing: float = 0.1
    sharpness: float = 2.0

    _inbox: Inbox = field(default_factory=Inbox, init=False, repr=False)
    _memory: Memory = field(default_factory=Memory, init=False, repr=False)
    _members: Committee = field(init=False, repr=False)
    _ledger: Ledger = field(init=False, repr=False)
    _positions: dict[str, Sequence[int]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.via not in ("auto", "params", "outputs"):
            raise ConfigError(f"auto: via {self.via!r} is not one of auto, params, outputs")
        if self.per not in ("byte", "second"):
            raise ConfigError(f"auto: per {self.per!r} is not one of byte, second")
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"auto: smoothing must be at least 0 and below 1, not {self.smoothing}")
        if not 0 < self.sharpness <= 100:
            raise ConfigError(f"auto: sharpness must be positive and at most 100, not {self.sharpness}")
        self._members = Committee(2 * self.committee)
        self._ledger = Ledger(self.per)

    # ---- what it shows and when

    @property
    def needs(self) -> frozenset[Exposure]:
        """One exposure or the other, as `misfit` finds per provider; only a fixed way needs a certain one."""
        fixed = {"params": Exposure.PARAMS_FULL, "outputs": Exposure.PUBLIC_OUTPUTS}
        return frozenset({fixed[self.via]}) if self.via in fixed else frozenset()

    @property
    def exposes(self) -> frozenset[Exposure]:
        ways = {"params": {Exposure.PARAMS_FULL}, "outputs": {Exposure.PUBLIC_OUTPUTS}}
        both = {Exposure.PARAMS_FULL, Exposure.PUBLIC_OUTPUTS}
        return frozenset({Exposure.HISTOGRAM, *ways.get(self.via, both)})

    @property
    def schedule(self) -> Schedule:
        return Schedule(cycle=(Local(epochs(1)), Publish(), Exchange(early=False), Transfer(epochs(1))))

    def check(self, learner: Learner) -> None:
        if self.via == "outputs" and not learner.public_sets:
            raise ConfigError("auto via outputs needs a public set: give one with Learner(public_sets=[...])")

    def misfit(self, learner: Learner, provider: Card) -> str | None:
        way = self._way(learner, provider)
        return way if isinstance(way, str) else None

    def prefer(self, learner: Learner, candidates: Sequence[Card]) -> Sequence[str] | None:
        return self._ledger.ranked(candidates)

    # ---- the exchange

    def ask(self, learner: Learner, provider: Card) -> Question:
        way = self._way(learner, provider)
        if isinstance(way, str):
            raise KnowledgeError(way)
        if way is None:
            return Question(conditional(Query(want="params"), self._inbox.heard(provider), provider))
        select = {"dataset": way.name, "fingerprint": way.fingerprint, "ids": None}
        query = Query(want="outputs", select=select)
        return Question(conditional(query, self._memory.version_of(provider, Outputs), provider))

    def publish(self, learner: Learner) -> tuple[Unlabelled, ...]:
        return learner.public_sets

    def answer(self, snapshot: Snapshot, asked: Asked) -> Answer:
        query = asked.question.query
        if query.want == "params" and not query.select and Exposure.PARAMS_FULL in self.exposes:
            return answers.whole_model(snapshot)
        if query.want == "outputs" and Exposure.PUBLIC_OUTPUTS in self.exposes:
            return answers.public_logits(snapshot, snapshot.extras or (), query)
        return answers.not_mine(self.name, query)

    def absorb(self, learner: Learner, received: Sequence[Received]) -> None:
        params = self._inbox.new([each for each in received if isinstance(each.knowledge, Params)])
        outputs = [e for e in received if isinstance(e.knowledge, Outputs) and self._memory.is_new(e)]
        for each in params:
            teaching.check_teacher(learner, averaging.admitted(learner, each), seen=each.sender.histogram)
        for each in outputs:
            assert isinstance(each.knowledge, Outputs)
            check_outputs(learner, each.knowledge)
        for each in params:
            self._inbox.put(each, teaching.dense(each.knowledge))
        for each in outputs:
            self._memory.keep(each)
        for each in (*params, *outputs):
            self._ledger.cost(each.sender.id, nbytes=each.received_bytes, seconds=each.seconds)

    def forget(self, provider: str) -> None:
        self._inbox.forget(provider)
        self._memory.forget(provider)

    # ---- learning

    @property
    def divisible(self) -> bool:
        return True

    def local(self, learner: Learner, span: Span) -> Report:
        return learner.fit(span, loss=self._own_loss(learner))

    def transfer(self, learner: Learner, span: Span) -> Report:
        """Average first, which takes no steps; then a span of learning from the pool, if there is one."""
        pieces, kept = self._inbox.take(), list(self._memory)
        if not pieces and not kept:
            return Report()
        self._members.join(learner)
        notes = self._average(learner, pieces) if pieces else {}
        report = self._distil(learner, span, kept) if kept else Report()
        if report.committed:
            self._members.join(learner)
        providers = sorted({piece.sender for piece in pieces} | {each.sender for each in kept})
        gain, nbytes, seconds = self._ledger.totals()
        spent = {"gain": gain, "cost_megabytes": nbytes / 1e6, "cost_seconds": seconds}
        return replace(report, providers=tuple(providers), notes={**report.notes, **notes, **spent})

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        return self._members.predict(learner, x)

    def state_dict(self) -> Mapping[str, Any]:
        return {
            "inbox": self._inbox.state_dict(),
            "memory": self._memory.state_dict(),
            "members": self._members.state_dict(),
            "ledger": self._ledger.state_dict(),
            "positions": dict(self._positions),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._inbox.load_state_dict(state["inbox"])
        self._memory.load_state_dict(state["memory"])
        self._members.load_state_dict(state["members"])
        self._ledger.load_state_dict(state["ledger"])
        self._positions = dict(state["positions"])

    def _way(self, learner: Learner, provider: Card) -> Unlabelled | str | None:
        """None: its parameters; a public set: its outputs on it; a sentence: not at all, and why."""
        if provider.classes != learner.classes:
            return f"{provider.name} tells {provider.classes} classes apart, this learner {learner.classes}"
        unlike = averaging.unfit(learner, provider)
        if self.via != "outputs" and Exposure.PARAMS_FULL in provider.exposes:
            if unlike is None:
                return None
            if self.via == "params":
                return unlike
        if self.via == "params":
            return f"{provider.name} does not show its parameters"
        if Exposure.PUBLIC_OUTPUTS in provider.exposes:
            held = {public.fingerprint for public in provider.public_sets}
            common = next((public for public in learner.public_sets if public.fingerprint in held), None)
            if common is not None:
                return common
            why = "cannot be averaged with" if unlike else "does not show its parameters"
            return (
                f"{provider.name} {why}, and the two hold no public set in common; "
                f"give both peers the same public set: Learner(public_sets=[...])"
            )
        return f"{provider.name} shows neither parameters that fit nor outputs on public sets"

    # ---- under a uniform prior

    def _own_loss(self, learner: Learner) -> "_OwnLoss":
        return _OwnLoss(learner, self.smoothing)

    def _average(self, learner: Learner, pieces: Sequence[Piece]) -> dict[str, float]:
        """The learner's weights become the mean, without models that harm it; returns what to note."""
        mine = Piece("", "", 0, sum(learner.describe().histogram), averaging.own(learner))
        everybody = sorted([mine, *pieces], key=lambda piece: averaging.content_key(piece.tensors))
        counted = all(piece.samples for piece in everybody)

        def mean(places: Sequence[int]) -> dict[str, Tensor]:
            chosen = [everybody[place] for place in places]
            return robust.mean([p.tensors for p in chosen], [p.samples for p in chosen] if counted else None)

        proof = prove(learner, mean, len(everybody), mine=everybody.index(mine))
        self._ledger.gained({p.sender: g for p, g in zip(everybody, proof.gains, strict=True) if p is not mine})
        learner.overwrite(mean(proof.keep))
        return {"averaged": float(len(proof.keep)), "left_out": float(len(everybody) - len(proof.keep))}

    def _distil(self, learner: Learner, span: Span, kept: Sequence[Kept]) -> Report:
        before = _likelihood(learner)
        pools = _pools(learner, kept, self.sharpness)
        orders = {print_: Order(len(pool), BATCH, seed=print_) for print_, pool in pools.items()}
        for print_, order in orders.items():
            order.go_to(*self._positions.get(print_, (0, 0)))
        own = self._own_loss(learner)
        sets = {public.fingerprint: public for public in learner.public_sets}

        def objective(model: nn.Module, batch: Batch) -> Tensor:
            value = own(model, batch)
            for print_, pool in pools.items():
                rows = orders[print_].next()
                logits = model(sets[print_].x[rows].to(learner.device))
                distance = losses.distill_kl(pool[rows].to(learner.device), logits)
                value = value + _POOL_WEIGHT / len(pools) * distance
            return value

        mark = learner.mark()
        try:
            report = learner.fit(span, loss=objective)
        except Diverged:
            learner.restore(mark)
            return Report(committed=False)
        self._positions |= {print_: list(order.state()) for print_, order in orders.items()}
        gain = _likelihood(learner) - before
        self._ledger.gained({each.sender: gain / len(kept) for each in kept})
        return report


class _OwnLoss:
    """The learner's own loss of logits to which the log of the private class frequencies is added: what is learned is
    then the likelihood of an input, not how often its class happens to be here."""

    def __init__(self, learner: Learner, smoothing: float) -> None:
        counts = torch.tensor(learner.describe().histogram, dtype=torch.float64) + 1
        self._log_prior = (counts / counts.sum()).log().to(learner.device)
        self._loss = learner.loss
        self._smoothing = smoothing if learner.loss is F.cross_entropy else 0.0

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        logits: Tensor = model(batch.x)
        adjusted = logits + self._log_prior.to(logits.dtype)
        if self._smoothing:
            return F.cross_entropy(adjusted, batch.y, label_smoothing=self._smoothing)
        return self._loss(adjusted, batch.y)


def _pools(learner: Learner, kept: Sequence[Kept], sharpness: float) -> dict[str, Tensor]:
    """By fingerprint of a public set, pooled log-probabilities (N, C) of all teachers on it and of the learner: their
    mean, raised to a power."""
    pools = {}
    for print_ in sorted({each.knowledge.fingerprint for each in kept if isinstance(each.knowledge, Outputs)}):
        outputs = [e.knowledge for e in kept if isinstance(e.knowledge, Outputs) and e.knowledge.fingerprint == print_]
        public = held_set(learner, outputs[0])
        voices = [learner.logits(public.x), *(each.tensors["logits"].float() for each in outputs)]
        pools[print_] = sharpness * torch.stack([voice.log_softmax(dim=1) for voice in voices]).mean(dim=0)
    return pools


def _likelihood(learner: Learner) -> float:
    """Mean log-probability of held-out samples' classes, classes counting equally; nan without any."""
    held = learner.held_out
    if held is None:
        return float("nan")
    share = torch.bincount(held.y, minlength=learner.classes).double()
    logs = learner.logits(held.x).double().log_softmax(dim=1).gather(1, held.y[:, None])[:, 0]
    return float((logs / share[held.y]).sum() / int((share > 0).sum()))
