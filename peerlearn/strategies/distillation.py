"""Real-time knowledge distillation: all parameters of the student learn from labels and from its teachers' outputs.

The baseline "KD" of the pairwise-transfer paper (Goldstein et al. 2021, section 4). A second route serves peers with
different networks: outputs on a public set, as in FedMD (Li and Wang 2019). Neither code nor a model definition ever
comes from a peer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from peerlearn.errors import ConfigError, KnowledgeError
from peerlearn.knowledge import Answer, Outputs, Params, Query, Question, Received
from peerlearn.learning import losses
from peerlearn.learning.dataset import Unlabelled
from peerlearn.learning.interruption import Diverged
from peerlearn.learning.learner import Batch, Learner, Objective
from peerlearn.learning.report import Report
from peerlearn.learning.snapshot import Snapshot
from peerlearn.schedule import Exchange, Local, Schedule, Transfer
from peerlearn.strategies.base import Asked, Base
from peerlearn.strategies.shared import routes, teacher_checks
from peerlearn.strategies.shared.public_teachers import PublicTeachers, check_outputs
from peerlearn.strategies.shared.teacher_memory import TeacherMemory, conditional
from peerlearn.types import Card, Exposure, Span, epochs


@dataclass
class Distillation(Base):
    """Loss of a transfer step: alpha * own loss(labels) + (1 - alpha) * mean over teachers of distance(teacher,
    student).

    `loss`: the distance of logits (B, C), `kl` (KD_T, teacher to student) or `mse`. `via`: `params` for a provider with
    the same architecture, which sends its parameters and is run here on private inputs; `outputs` for any other, which
    sends logits on a public set that both hold, and the student matches them there. `auto` takes the first route that
    is possible. With `outputs` a peer never shows or asks for parameters. alpha 0.5 and T 1 are the values of the
    experiments. A larger alpha keeps more of the private accuracy; a larger T softens both distributions.
    """

    name: ClassVar[str] = "distillation"
    shares_answers: ClassVar[bool] = True

    loss: Literal["kl", "mse"] = "kl"
    alpha: float = 0.5
    temperature: float = 1.0
    via: Literal["auto", "params", "outputs"] = "auto"

    _memory: TeacherMemory = field(default_factory=TeacherMemory, init=False, repr=False)
    _positions: dict[str, Sequence[int]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.loss not in ("kl", "mse"):
            raise ConfigError(f"distillation: loss {self.loss!r} is not one of kl, mse")
        if self.via not in ("auto", "params", "outputs"):
            raise ConfigError(f"distillation: via {self.via!r} is not one of auto, params, outputs")
        teacher_checks.check_weights(self.name, self.alpha, self.temperature)

    @property
    def needs(self) -> frozenset[Exposure]:
        return routes.needed(self.via)

    @property
    def exposes(self) -> frozenset[Exposure]:
        return routes.shown(self.via)

    @property
    def schedule(self) -> Schedule:
        return Schedule(cycle=(Local(epochs(1)), Exchange(), Transfer(epochs(1))))

    def check(self, learner: Learner) -> None:
        if self.via == "outputs" and not learner.public_sets:
            raise ConfigError("distillation via outputs needs a public set: give one with Learner(public_sets=[...])")

    def misfit(self, learner: Learner, provider: Card) -> str | None:
        route = self._route(learner, provider)
        return route if isinstance(route, str) else None

    def ask(self, learner: Learner, provider: Card) -> Question:
        route = self._route(learner, provider)
        if isinstance(route, str):
            raise KnowledgeError(route)
        if route is None:
            return Question(conditional(Query(want="params"), self._memory.version_of(provider, Params), provider))
        return Question(conditional(routes.outputs_on(route), self._memory.version_of(provider, Outputs), provider))

    def publish(self, learner: Learner) -> tuple[Unlabelled, ...]:
        return learner.public_sets

    def answer(self, snapshot: Snapshot, asked: Asked) -> Answer:
        return routes.answered(self.name, self.via, snapshot, asked.question.query)

    def absorb(self, learner: Learner, received: Sequence[Received]) -> None:
        new = [each for each in received if self._memory.is_new(each)]
        for each in new:
            if isinstance(each.knowledge, Params):
                teacher_checks.check_teacher(learner, each.knowledge, seen=each.sender.histogram)
            else:
                check_outputs(learner, each.knowledge)
        for each in new:
            self._memory.keep(each)

    def forget(self, provider: str) -> None:
        self._memory.forget(provider)

    def transfer(self, learner: Learner, span: Span) -> Report:
        kept = list(self._memory)
        if not kept:
            return Report()
        providers = tuple(each.sender for each in kept)
        networks = [learner.build(teacher_checks.dense(k.knowledge)) for k in kept if isinstance(k.knowledge, Params)]
        outputs = [k.knowledge for k in kept if isinstance(k.knowledge, Outputs)]
        public = PublicTeachers(learner, outputs, self._positions)
        mark = learner.mark()
        try:
            report = learner.fit(span, loss=self._objective(learner, networks, public))
        except Diverged:
            learner.restore(mark)
            return Report(providers=providers, committed=False)
        self._positions |= public.positions()
        return replace(report, providers=providers)

    def state_dict(self) -> Mapping[str, Any]:
        return {**self._memory.state_dict(), "positions": dict(self._positions)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._memory.load_state_dict(state)
        self._positions = dict(state["positions"])

    # ---- routes

    def _route(self, learner: Learner, provider: Card) -> Unlabelled | str | None:
        """The route from this provider: None for its parameters, a public set for its outputs on it, or a sentence why
        there is none."""
        if provider.classes != learner.classes:
            return f"{provider.name} tells {provider.classes} classes apart, this learner {learner.classes}"
        same = provider.architecture == learner.architecture
        if self.via != "outputs" and same and Exposure.PARAMS_FULL in provider.exposes:
            return None
        if self.via == "params":
            return f"{provider.name} " + ("does not show its parameters" if same else "has another architecture")
        common = routes.common_set(learner, provider)
        if common is not None and Exposure.PUBLIC_OUTPUTS in provider.exposes:
            return common
        why = "shows no parameters" if same else "has another architecture"
        if common is not None:
            return f"{provider.name} {why} and does not show its outputs on public sets"
        return (
            f"{provider.name} {why}, and the two hold no public set in common; "
            f"give both peers the same public set: Learner(public_sets=[...])"
        )

    # ---- the loss

    def _objective(self, learner: Learner, networks: Sequence[nn.Module], public: PublicTeachers) -> Objective:
        def objective(model: nn.Module, batch: Batch) -> Tensor:
            logits = model(batch.x)
            own = learner.loss(logits, batch.y)
            if self.alpha == 1:
                return own
            with torch.no_grad():
                pairs = [(network(batch.x), logits) for network in networks]
            distances = [self._distance(*pair).double() for pair in [*pairs, *public.pairs(model)]]
            mean = torch.stack(distances).sum() / len(distances)
            return self.alpha * own + (1 - self.alpha) * mean.to(own.dtype)

        return objective

    def _distance(self, teacher: Tensor, student: Tensor) -> Tensor:
        if self.loss == "mse":
            return losses.logit_mse(teacher, student)
        return losses.distill_kl(teacher, student, self.temperature)
