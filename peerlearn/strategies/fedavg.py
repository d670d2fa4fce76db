"""Federated averaging: peers train for some epochs, then continue from the mean of their weights.

McMahan et al. 2017, "Communication-efficient learning of deep networks from decentralized data" (algorithm 1): theta <-
sum_k n_k theta_k / sum_k n_k. FedAvgShared adds a labelled subset that all peers hold: Zhao et al. 2018, "Federated
learning with non-iid data", section 4.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from peerlearn.errors import ConfigError, KnowledgeError
from peerlearn.knowledge import Answer, Params, Query, Question, Received
from peerlearn.learning.learner import Learner
from peerlearn.learning.report import Report
from peerlearn.learning.snapshot import Snapshot
from peerlearn.schedule import Exchange, Local, Publish, Schedule, Transfer
from peerlearn.strategies.base import Asked, Base
from peerlearn.strategies.shared import answers, averaging, robust, teacher_checks
from peerlearn.strategies.shared.averaging import Inbox, Piece
from peerlearn.strategies.shared.teacher_memory import conditional
from peerlearn.types import Card, Exposure, PublicSet, Span, epochs, steps

_AVERAGE = (Exchange(early=False), Transfer(steps(0)))
"""Fetch models after local training, not before it, and average them without training steps."""


@dataclass
class FedAvg(Base):
    """Three roles. `all`: no hub; every peer asks every other one, and averages new models with its own. `peer`: starts
    from the hub's model, trains, brings its weights to the hub, waits for the hub's next model and continues from that;
    without a hub it learns alone. `hub`: does not train; it averages as soon as `cohort` peers have brought models, and
    later arrivals count for the next average.

    `local_epochs`: E, the epochs of a peer's round; `local_steps`: optimizer steps instead (on a stream: request
    batches). `aggregate`: `weighted` by numbers of labelled samples, which cards then show; `mean`, with equal weights,
    which shows no counts; `median`, `trimmed-mean` and `krum`, which tolerate lying peers (shared/robust.py). `liars`:
    how many, for the last two. `hub`: the hub's name or the start of its id; empty: any peer that answers as a hub.

    Each average overwrites the weights, so every round starts with fresh optimizer state. BatchNorm's running
    statistics are averaged too, but never its batch counter.
    """

    name: ClassVar[str] = "fedavg"
    shares_answers: ClassVar[bool] = True

    role: Literal["all", "peer", "hub"] = "all"
    local_epochs: int = 1
    local_steps: int | None = None
    aggregate: robust.Rule = "weighted"
    liars: int = 0
    cohort: int = 0
    hub: str = ""

    _inbox: Inbox = field(default_factory=Inbox, init=False, repr=False)
    _mixed: list[Piece] = field(default_factory=list, init=False, repr=False)
    """The models in a hub's last average, until the average is judged."""

    def __post_init__(self) -> None:
        if self.role not in ("all", "peer", "hub"):
            raise ConfigError(f"{self.name}: role {self.role!r} is not one of all, peer, hub")
        if self.local_epochs < 1:
            raise ConfigError(f"{self.name}: local_epochs must be at least 1, not {self.local_epochs}")
        if self.local_steps is not None and self.local_steps < 1:
            raise ConfigError(f"{self.name}: local_steps must be at least 1, not {self.local_steps}")
        robust.check_rule(self.name, self.aggregate, self.liars)
        if self.hub and self.role != "peer":
            raise ConfigError(f"{self.name}: only a peer has a hub to name, not role {self.role}")
        if self.cohort and self.role != "hub":
            raise ConfigError(f"{self.name}: only a hub waits for a cohort, not role {self.role}")
        least = robust.least_models(self.aggregate, self.liars)
        if self.role == "hub" and self.cohort < least:
            raise ConfigError(
                f"{self.name}: a hub must know how many peers make an average: set cohort, here to at least {least}"
            )

    # ---- exposures and schedule

    @property
    def needs(self) -> frozenset[Exposure]:
        counts = {Exposure.HISTOGRAM} if self.aggregate == "weighted" and self.role != "peer" else set()
        return frozenset({Exposure.PARAMS_FULL, *counts})

    @property
    def exposes(self) -> frozenset[Exposure]:
        counts = {Exposure.HISTOGRAM} if self.aggregate == "weighted" and self.role != "hub" else set()
        return frozenset({Exposure.PARAMS_FULL, *counts})

    @property
    def schedule(self) -> Schedule:
        if self.role == "hub":
            return Schedule(cycle=(), on={"received": (Transfer(steps(0)),), "averaged": (Publish(),)})
        span = epochs(self.local_epochs) if self.local_steps is None else steps(self.local_steps)
        cycle = (Local(span), Publish(), *_AVERAGE)
        return Schedule(cycle=cycle, first=_AVERAGE if self.role == "peer" else ())

    def misfit(self, learner: Learner, provider: Card) -> str | None:
        if self.role == "hub":
            return "a hub asks nobody; peers bring what it averages"
        if self.hub and provider.name != self.hub and not (len(self.hub) >= 6 and provider.id.startswith(self.hub)):
            return f"{provider.name} is not the hub {self.hub!r}"
        return self._unfit(learner, provider)

    # ---- the exchange

    def ask(self, learner: Learner, provider: Card) -> Question | Sequence[Question]:
        held = self._inbox.heard(provider)
        if self.role != "peer":
            return Question(conditional(Query(want="params", select={"model": "own"}), held, provider))
        query = Query(want="params", select={"model": "average"})
        shown = averaging.shown(learner, self.publish)
        if shown.version == 0:  # nothing trained has been published yet: start from the hub's present model
            return Question(query, after=0)
        bring = Question(Query(want="nothing"), brings=averaging.brought(shown))
        return [bring, Question(query, after=1 if held is None else held + 1)]

    def answer(self, snapshot: Snapshot, asked: Asked) -> Answer:
        query = asked.question.query
        select = {"all": {"model": "own"}, "hub": {"model": "average"}}.get(self.role)
        if query.want == "params" and select is not None and dict(query.select) == select:
            return answers.whole_model(snapshot)
        return answers.not_mine(f"{self.name} in the role {self.role}", query)

    def absorb(self, learner: Learner, received: Sequence[Received]) -> None:
        new = self._inbox.new(received)
        for each in new:
            self._check(learner, each)
        for each in new:
            self._inbox.put(each, teacher_checks.dense(each.knowledge))

    def forget(self, provider: str) -> None:
        self._inbox.forget(provider)

    # ---- the mean

    def transfer(self, learner: Learner, span: Span) -> Report:
        """Replace the weights by the average; makes no steps. Raises KnowledgeError, before anything is changed, when
        there are too few models for the rule."""
        if len(self._inbox) < max(1, self.cohort):
            return Report()
        pieces = self._inbox.take()
        senders = tuple(piece.sender for piece in pieces)
        if self.role == "hub":
            self._mixed = pieces
            return self.transfer_without(learner, ())
        if self.role == "peer":
            return self._go_on_from(learner, pieces)
        mine = Piece("", "", 0, sum(learner.describe().histogram), averaging.own(learner))
        everybody = averaging.in_common_order([mine, *pieces])
        learner.overwrite(self._aggregated(everybody))
        return Report(providers=senders)

    def transfer_without(self, learner: Learner, absent: Collection[str]) -> Report:
        """Repeat a hub's average without these peers. A hub asks no providers, so it cannot leave them out when it
        asks."""
        pieces = [piece for piece in self._mixed if piece.sender not in absent]
        if len(pieces) < max(1, robust.least_models(self.aggregate, self.liars)):
            return Report()
        learner.overwrite(self._aggregated(pieces))
        return Report(providers=tuple(piece.sender for piece in pieces), events=("averaged",))

    def transfer_done(self) -> None:
        self._mixed = []

    def state_dict(self) -> Mapping[str, Any]:
        return self._inbox.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._inbox.load_state_dict(state)

    def _unfit(self, learner: Learner, card: Card) -> str | None:
        return averaging.unfit(learner, card)

    def _check(self, learner: Learner, received: Received) -> None:
        knowledge: Params = averaging.admitted(learner, received, self._unfit)
        if Exposure.HISTOGRAM in self.needs and not received.sender.histogram:
            raise KnowledgeError(f"{received.sender.name} does not show how many samples it has; its weight is unknown")
        teacher_checks.check_teacher(learner, knowledge, seen=received.sender.histogram)

    def _go_on_from(self, learner: Learner, pieces: Sequence[Piece]) -> Report:
        """Replace the weights by the hub's model, or by the mean of several hubs' models. A hub's version 0 is no
        average yet, and is ignored by a learner that has trained already: an app's own loop trains before its first
        transfer."""
        pieces = [piece for piece in pieces if piece.version > 0 or learner.steps == 0]
        if not pieces:
            return Report()
        learner.overwrite(robust.mean([piece.tensors for piece in pieces]))
        return Report(providers=tuple(piece.sender for piece in pieces))

    def _aggregated(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        states, samples = [piece.tensors for piece in pieces], [piece.samples for piece in pieces]
        return robust.aggregated(self.aggregate, states, samples, liars=self.liars)


@dataclass
class FedAvgShared(FedAvg):
    """FedAvg where every private set contains the same small labelled subset G of all classes (Zhao et al. 2018,
    section 4).

    `peerlearn.data.partition_shared` makes G and adds it to the parts. Every learner also names G's inputs as a public
    set, `Learner(public_sets=[whole.subset(ids).unlabelled("shared")])`, which is how peers check that they hold the
    same G. `shared`: the name of that public set.
    """

    name: ClassVar[str] = "fedavg-shared"

    shared: str = "shared"

    def check(self, learner: Learner) -> None:
        if self._subset(learner) is None:
            held = ", ".join(public.name for public in learner.public_sets) or "none"
            raise ConfigError(
                f"{self.name} needs the shared subset as a public set named {self.shared!r} (there is {held}): "
                f"Learner(public_sets=[whole.subset(ids).unlabelled({self.shared!r})])"
            )

    def _subset(self, learner: Learner) -> PublicSet | None:
        return next((public.card for public in learner.public_sets if public.name == self.shared), None)

    def _unfit(self, learner: Learner, card: Card) -> str | None:
        mine = self._subset(learner)
        if mine is None or mine.fingerprint not in {public.fingerprint for public in card.public_sets}:
            return f"{card.name} does not hold the shared subset {self.shared!r} that this learner holds"
        return super()._unfit(learner, card)
