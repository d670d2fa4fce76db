"""Cloned distillation: a hub sends out clones of its model, and learns on its own data from the clones that edges
trained.

Lee, Yoo and Kwak 2020, "Asynchronous edge learning using cloned knowledge distillation". Teacher and student start from
the same weights, so that the student can follow the teacher without forgetting.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor

from peerlearn.errors import ConfigError, KnowledgeError, RefusalReason
from peerlearn.knowledge import Answer, Params, Query, Question, Received, Refusal
from peerlearn.learning.interruption import Diverged, Interrupted
from peerlearn.learning.learner import Learner
from peerlearn.learning.report import Report
from peerlearn.learning.snapshot import Snapshot
from peerlearn.schedule import Exchange, Local, Publish, Schedule, Transfer
from peerlearn.strategies.base import Asked, Base
from peerlearn.strategies.cloned import phases
from peerlearn.strategies.cloned.phases import LogitTeacher, Recipe, Reduce
from peerlearn.strategies.cloned.returned_clones import Returned, Returns
from peerlearn.strategies.shared import answers, teacher_checks
from peerlearn.strategies.shared.options import check_choices, check_least
from peerlearn.types import Card, Exposure, Span, epochs

Init = Literal["clone", "independent", "scratch"]
"""The weights from which edges start, see `Cloned`."""
_RECEIPT = "receipt"
"""Key of the query by which an edge asks for a receipt, or for permission, instead of parameters."""


@dataclass(frozen=True, slots=True, eq=False)
class Dispatch:
    """Published by a hub after phase 0. `instead`: weights to hand out in place of the snapshot's own."""

    instead: Mapping[str, Tensor] | None = None


@dataclass
class Cloned(Base):
    """Phase 2 at the hub, on its own data: L = CE + weight * sum over teachers of KD_t(teacher -> hub) (equation 2).

    `role` hub: phase 0 (`first_epochs` on labels), then one phase 2 (`hub_epochs`) for each edge that returned its
    clones, in order of arrival. `role` edge: takes a clone, trains `members` models from it for `edge_epochs` each, and
    brings them to the hub; it does so `visits` times and then learns alone. It takes the clone once the hub has
    published version `turn`: 1 follows phase 0, k follows k - 1 phases 2. `hub`: name or start of the id of the hub
    that an edge asks; "": any peer that its links allow, so give `hub` or links when edges see each other.

    `init`: the start of the edges' models. `clone`: the hub's model; `independent`: weights of another seed, trained by
    the hub in phase 0; `scratch`: new weights of their own. `memory`: number of edges whose ensembles teach at a time
    (M); `reduce`: their terms are summed or averaged. `weight` 0 is the control without teachers. `lr`, `momentum`,
    `weight_decay`, `decay`, `clip`: SGD of each phase (`phases.Recipe`). `suspect`: a phase 2 that lowers the hub's
    accuracy on its own data by more than this share is undone, and its teacher dropped; None: never.

    The paper gives neither M nor t. M = 3 measured better than 1; t = 2 was stable, while t = 4 without clipping
    diverged. All phases train by the method's own loop, so an app that trains by its own loop cannot be an edge.
    """

    name: ClassVar[str] = "cloned"
    shares_answers: ClassVar[bool] = True

    role: Literal["hub", "edge"] = "edge"
    init: Init = "clone"
    members: int = 3
    memory: int = 3
    reduce: Reduce = "sum"
    temperature: float = 2.0
    weight: float = 1.0
    first_epochs: int = 30
    edge_epochs: int = 12
    hub_epochs: int = 12
    lr: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay: float = 0.1
    clip: float | None = 5.0
    turn: int = 1
    visits: int = 1
    hub: str = ""
    suspect: float | None = None

    _ready: bool = field(default=False, init=False, repr=False)
    _other: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _teachers: list[LogitTeacher] = field(default_factory=list, init=False, repr=False)
    _clone: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _made: list[dict[str, Tensor]] = field(default_factory=list, init=False, repr=False)
    _owed: bool = field(default=False, init=False, repr=False)
    _visited: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        choices = {"role": ("hub", "edge"), "init": get_args(Init), "reduce": get_args(Reduce)}
        check_choices(self.name, self, choices)
        check_least(self.name, self, dict.fromkeys(("members", "memory", "turn", "visits"), 1))
        check_least(self.name, self, dict.fromkeys(("first_epochs", "edge_epochs", "hub_epochs", "weight"), 0))
        if self.suspect is not None and not 0 <= self.suspect <= 1:
            raise ConfigError(f"cloned: suspect must be a share between 0 and 1, or None, not {self.suspect}")
        teacher_checks.check_weights(self.name, 0, self.temperature)
        self._recipe = Recipe(
            lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, decay=self.decay, clip=self.clip
        )
        self._returns = Returns(self.members)

    @property
    def needs(self) -> frozenset[Exposure]:
        return frozenset({Exposure.PARAMS_FULL}) if self.role == "edge" else frozenset()

    @property
    def exposes(self) -> frozenset[Exposure]:
        """Full weights in both directions: the hub answers with them, an edge brings them."""
        return frozenset({Exposure.PARAMS_FULL})

    @property
    def schedule(self) -> Schedule:
        if self.role == "hub":
            return Schedule(
                cycle=(),
                first=(Local(epochs(self.first_epochs)), Publish()),
                on={"received": (Transfer(epochs(self.hub_epochs)),), "settled": (Publish(),)},
            )
        return Schedule(cycle=(Exchange(early=False), Local(epochs(self.edge_epochs)), Exchange(early=False)))

    def check(self, learner: Learner) -> None:
        makes_weights = "hub" if self.init == "independent" else "edge" if self.init == "scratch" else ""
        if self.role == makes_weights:
            phases.check_renewable(learner)

    def misfit(self, learner: Learner, provider: Card) -> str | None:
        if self.role == "hub":
            return "a hub asks nobody: edges bring what they have learned"
        if self.hub and provider.name != self.hub and not (len(self.hub) >= 6 and provider.id.startswith(self.hub)):
            return f"{provider.name} is not the hub {self.hub!r}"
        if provider.architecture != learner.architecture:
            return f"{provider.name} has another architecture; a clone of its model would not be one of this model"
        return None

    # ---- the edge's questions

    def prefer(self, learner: Learner, candidates: Sequence[Card]) -> Sequence[str]:
        """While members are owed: the hub that gave the clone. While there is nothing to ask for: no provider."""
        if self._owed:
            return [card.id for card in candidates if card.id == self._clone["sender"]]
        if self._clone.get("fresh") or self._visited >= self.visits:
            return []
        return [card.id for card in candidates]

    def ask(self, learner: Learner, provider: Card) -> Sequence[Question]:
        """Ask for the clone (with `init` scratch: for permission). Later bring the members, and ask for a receipt with
        the last."""
        receipt = Query(want="params", select={_RECEIPT: True})
        if not self._owed:
            again = self._clone.get("session") == provider.session
            after = max(self.turn, self._clone["version"] + 1 if again else 0)
            return [Question(receipt if self.init == "scratch" else Query(want="params"), after=after)]
        version = self._clone["version"]
        brought = [
            Params(tensors=tensors, architecture=learner.architecture, version=version, member=member)
            for member, tensors in enumerate(self._made)
        ]
        queries = [Query(want="nothing")] * (len(brought) - 1) + [receipt]
        return [Question(query, params, after=0) for query, params in zip(queries, brought, strict=True)]

    # ---- the hub's answers

    def publish(self, learner: Learner) -> Dispatch | None:
        if self.role == "edge" or not self._ready:
            return None
        return Dispatch(self._other or None)

    def answer(self, snapshot: Snapshot, asked: Asked) -> Answer:
        query, dispatch = asked.question.query, snapshot.extras
        if self.role == "edge":
            return Refusal(RefusalReason.STRATEGY, "an edge hands out no clone; ask the hub")
        if query.want != "params" or query.select not in ({}, {_RECEIPT: True}):
            return answers.not_mine(self.name, query)
        if not isinstance(dispatch, Dispatch):
            return Refusal(RefusalReason.VERSION, "the hub is still in phase 0: wait for its version 1")
        if query.select:
            return Params(tensors={}, architecture=snapshot.architecture, version=snapshot.version)
        if dispatch.instead is not None:
            return Params(tensors=dispatch.instead, architecture=snapshot.architecture, version=snapshot.version)
        return answers.whole_model(snapshot)

    # ---- received knowledge

    def absorb(self, learner: Learner, received: Sequence[Received]) -> None:
        pairs = [(each, _params(each)) for each in received]
        if self.role == "hub":
            self._absorb_members(learner, pairs)
            return
        for each, params in pairs:
            if each.asked is None:
                raise KnowledgeError("an edge takes nothing that it has not asked for")
            if each.asked.select and params.tensors:
                raise KnowledgeError("parameters came where a receipt was asked for")
            if not each.asked.select:
                teacher_checks.check_teacher(learner, params, seen=each.sender.histogram)
        for each, params in pairs:
            self._take(each, params)

    def _take(self, each: Received, params: Params) -> None:
        """Take an edge's receipt, permission or clone."""
        about = (each.sender.id, each.sender.session, params.version)
        is_receipt = each.asked is not None and bool(each.asked.select)
        if self._owed:
            if is_receipt and each.sender.id == self._clone["sender"]:
                self._owed = False
            return
        held = (self._clone.get("sender"), self._clone.get("session"), self._clone.get("version"))
        spent = self._visited >= self.visits or self._clone.get("fresh")
        if about == held or spent or is_receipt != (self.init == "scratch"):
            return
        self._visited += 1
        sender, session, version = about
        self._clone = {"sender": sender, "session": session, "version": version, "fresh": True}
        self._clone["tensors"] = teacher_checks.dense(params)

    def _absorb_members(self, learner: Learner, pairs: Sequence[tuple[Received, Params]]) -> None:
        new = [(each, params) for each, params in pairs if self._returns.is_new(each, params)]
        for each, params in new:
            if not 0 <= params.member < self.members:
                raise KnowledgeError(f"member {params.member} came; this hub expects {self.members} per edge")
            teacher_checks.check_teacher(learner, params, seen=each.sender.histogram)
        for each, params in new:
            if self._returns.is_new(each, params):
                self._returns.keep(each, params)

    def forget(self, provider: str) -> None:
        """At the hub: a quarantined edge stops teaching, and its unused members are dropped."""
        self._teachers = [teacher for teacher in self._teachers if teacher.sender != provider]
        self._returns.forget(provider)

    # ---- phases 0 and 1

    def local(self, learner: Learner, span: Span) -> Report:
        """Phase 0 at the hub. At an edge: phase 1 when it has a new clone, plain training otherwise."""
        if self.role == "hub":
            return self._phase_0(learner, span)
        if self._clone.get("fresh"):
            with learner.tentative():
                return self._phase_1(learner, span)
        if not self._owed:
            self._made = []
        return learner.fit(span)

    def _phase_0(self, learner: Learner, span: Span) -> Report:
        with learner.tentative():
            report = phases.run_phase(learner, span, self._recipe)
            if self.init == "independent" and not self._other:
                self._other = phases.train_other(learner, span, self._recipe, learner.seed, "independent")
        self._ready = True
        return report

    def _phase_1(self, learner: Learner, span: Span) -> Report:
        scratch = self.init == "scratch"
        start = phases.afresh(learner, learner.seed, self._visited) if scratch else self._clone["tensors"]
        self._made, report = phases.train_members(learner, span, self._recipe, start, self.members)
        self._clone = {**self._clone, "fresh": False, "tensors": {}}
        self._owed = True
        return replace(report, notes={"version": self._clone["version"]})

    # ---- phase 2

    def transfer(self, learner: Learner, span: Span) -> Report:
        """Add one edge's ensemble to the memory, and continue the hub's model on its own data. After divergence, or
        with a suspect teacher, model and memory stay unchanged."""
        returned = self._returns.next() if self.role == "hub" else None
        if returned is None:
            return Report()
        try:
            return self._phase_2(learner, span, returned)
        except Interrupted:
            self._returns.put_back(returned)
            raise

    def _phase_2(self, learner: Learner, span: Span, returned: Returned) -> Report:
        events = ("settled", "received") if len(self._returns) else ("settled",)
        newest = phases.teacher_of(learner, returned.sender, returned.members)
        teachers = [*self._teachers, newest][-self.memory :]
        loss = phases.teaching_loss(
            learner, teachers, temperature=self.temperature, weight=self.weight, reduce=self.reduce
        )
        mark = learner.mark()
        try:
            report = phases.study(learner, span, self._recipe, loss, newest, suspect=self.suspect)
        except Diverged:
            report = Report(committed=False)
        if report.committed:
            self._teachers = teachers
        else:
            learner.restore(mark)
        return replace(report, providers=(returned.sender,), events=events)

    # ---- prediction and state

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        """Probabilities (B, C): by the hub's model, or at an edge by the ensemble of its latest members, if it has
        any."""
        if not self._made:
            return learner.predict(x)
        return phases.mean_logits([learner.logits(x, model=learner.build(m)) for m in self._made]).softmax(dim=1)

    def state_dict(self) -> Mapping[str, Any]:
        return {
            "ready": self._ready,
            "other": dict(self._other),
            "teachers": [{"sender": t.sender, "ids": t.ids, "logits": t.logits} for t in self._teachers],
            "returns": self._returns.state_dict(),
            "clone": dict(self._clone),
            "made": [dict(member) for member in self._made],
            "owed": self._owed,
            "visited": self._visited,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._ready, self._other = bool(state["ready"]), dict(state["other"])
        self._teachers = [LogitTeacher(**kept) for kept in state["teachers"]]
        self._returns.load_state_dict(state["returns"])
        self._clone = dict(state["clone"])
        self._made = [dict(member) for member in state["made"]]
        self._owed, self._visited = bool(state["owed"]), int(state["visited"])


def _params(each: Received) -> Params:
    if not isinstance(each.knowledge, Params):
        raise KnowledgeError("outputs came; cloned distillation exchanges parameters only")
    return each.knowledge
