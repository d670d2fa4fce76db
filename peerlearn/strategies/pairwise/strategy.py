"""Pairwise layer transfer: small trained maps rewrite one layer from the providers' layers.

Goldstein et al. 2021, "Real-time decentralized knowledge transfer at the edge", sections 2 and 3. The defaults are the
variant that measured best: mixing on the output side with biases, one map per provider, averaged, reset each phase.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from torch import nn

from peerlearn.errors import ConfigError, KnowledgeError, LearnerError
from peerlearn.knowledge import Answer, Params, Query, Question, Received
from peerlearn.learning.interruption import Diverged
from peerlearn.learning.learner import Learner
from peerlearn.learning.report import Report
from peerlearn.learning.snapshot import Snapshot
from peerlearn.schedule import Exchange, Local, Schedule, Transfer
from peerlearn.strategies.base import Asked, Base
from peerlearn.strategies.pairwise.layer_transfer import Control, Direction, Objective, Rewriting, Teaching
from peerlearn.strategies.pairwise.pipelines import Combine, Pipelines
from peerlearn.strategies.pairwise.transfer_maps import MapSettings, Mix, Start
from peerlearn.strategies.shared import answers, teacher_checks
from peerlearn.strategies.shared.teacher_memory import TeacherMemory, conditional
from peerlearn.types import Card, Exposure, Span, epochs


@dataclass
class Pairwise(Base):
    """Loss of a transfer step (equation 5): alpha * own loss(labels) + (1 - alpha) * mean over providers of
    KD_T(provider -> own network with the new layer). Only the maps are trained; the layer is replaced at the end.

    `layer`: name of a dense layer. `combine`, `mix`, `mix_bias` (None: only with `mix` out), `start`: form of the maps
    (transfer_maps.py, pipelines.py). `map_lr`: learning rate of their Adam; 1e-3 halved the gain, and 1e-2 destroyed
    the model. `persist`: the maps continue in the next phase. `commit` step: each new layer is at once the own layer of
    the next step, as in the paper's algorithm 1; models collapsed with it. `rest`: the learner's optimizer trains all
    other parameters by the same loss. `direction` reverse: KL(own || provider). `teacher` layer: only the layer and
    those after it travel, and run on the consumer's own features, which needs a common start. `guard`: a phase that
    increases the loss on its first and last batch by more than this share is not committed; None: commit always.
    `control`: replaces the providers' layers by noise of the same mean and spread, or their outputs by uniform ones, to
    measure the worth of the knowledge.
    """

    name: ClassVar[str] = "pairwise"
    shares_answers: ClassVar[bool] = True

    layer: str = "penult"
    combine: Combine = "mean"
    mix: Mix = "out"
    mix_bias: bool | None = None
    start: Start = "own"
    alpha: float = 0.5
    temperature: float = 1.0
    direction: Direction = "forward"
    map_lr: float = 1e-4
    persist: bool = False
    commit: Literal["phase", "step"] = "phase"
    rest: bool = False
    teacher: Teaching = "snapshot"
    guard: float | None = 0.2
    control: Control = ""

    _memory: TeacherMemory = field(default_factory=TeacherMemory, init=False, repr=False)
    _maps: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        choices = {
            "combine": get_args(Combine),
            "mix": get_args(Mix),
            "start": get_args(Start),
            "direction": get_args(Direction),
            "commit": ("phase", "step"),
            "teacher": get_args(Teaching),
            "control": get_args(Control),
        }
        for option, allowed in choices.items():
            if getattr(self, option) not in allowed:
                known = ", ".join(repr(value) for value in allowed)
                raise ConfigError(f"pairwise: {option} {getattr(self, option)!r} is not one of {known}")
        teacher_checks.check_weights(self.name, self.alpha, self.temperature)
        if not self.map_lr > 0:
            raise ConfigError(f"pairwise: map_lr must be positive, not {self.map_lr}")
        if self.guard is not None and not self.guard >= 0:
            raise ConfigError(f"pairwise: guard must be at least 0, or None to commit whatever comes, not {self.guard}")

    @property
    def needs(self) -> frozenset[Exposure]:
        return frozenset({Exposure.PARAMS_LAYERS if self.teacher == "layer" else Exposure.PARAMS_FULL})

    @property
    def exposes(self) -> frozenset[Exposure]:
        return frozenset({Exposure.HISTOGRAM, Exposure.PARAMS_LAYERS, *self.needs})

    @property
    def schedule(self) -> Schedule:
        return Schedule(cycle=(Local(epochs(1)), Exchange(), Transfer(epochs(1))))

    def check(self, learner: Learner) -> None:
        modules = dict(learner.model.named_modules())
        there = [layer.name for layer in learner.describe().layers if isinstance(modules[layer.name], nn.Linear)]
        if self.layer not in modules or not self.layer:
            named = f"its dense layers are {', '.join(there)}" if there else "it has no dense layer"
            raise LearnerError(
                f"pairwise transfer rewrites layer {self.layer!r}, which the model does not have; {named}"
            )
        if self.layer not in there:
            kind = type(modules[self.layer]).__name__
            raise LearnerError(
                f"pairwise transfer rewrites dense layers; {self.layer!r} is a {kind}, "
                f"the dense layers of this model are {', '.join(there) or 'none'}"
            )

    def misfit(self, learner: Learner, provider: Card) -> str | None:
        mine = learner.describe()
        if provider.architecture != mine.architecture:
            named = ", ".join(layer.name for layer in provider.layers) or "none shown"
            own = ", ".join(layer.name for layer in mine.layers)
            return (
                f"pairwise transfer needs one architecture: {provider.name} has another (layers {named}) than this "
                f"model (layers {own}); use distillation with a common public set instead"
            )
        if self.teacher == "layer" and provider.start != mine.start:
            return f"{provider.name} began from other weights; transfer by layers alone needs a common start"
        return None

    def ask(self, learner: Learner, provider: Card) -> Question:
        query = Query(want="params")
        if self.teacher == "layer":
            query = Query(want="params", select={"layers": list(self._layers_asked(learner))})
        return Question(conditional(query, self._memory.version_of(provider, Params), provider))

    def answer(self, snapshot: Snapshot, asked: Asked) -> Answer:
        query = asked.question.query
        if query.want == "params" and set(query.select) == {"layers"}:
            return answers.some_layers(snapshot, query.select["layers"])
        if query.want == "params" and not query.select and Exposure.PARAMS_FULL in self.exposes:
            return answers.whole_model(snapshot)
        return answers.not_mine(self.name, query)

    def absorb(self, learner: Learner, received: Sequence[Received]) -> None:
        new = [each for each in received if self._memory.is_new(each)]
        for each in new:
            if not isinstance(each.knowledge, Params):
                raise KnowledgeError("outputs came where parameters were asked for")
            if self.teacher == "layer":
                teacher_checks.check_layers(learner, each.knowledge, self._layers_asked(learner))
            else:
                teacher_checks.check_teacher(learner, each.knowledge, seen=each.sender.histogram)
        for each in new:
            self._memory.keep(each)

    def forget(self, provider: str) -> None:
        self._memory.forget(provider)

    def transfer(self, learner: Learner, span: Span) -> Report:
        providers = {kept.sender: teacher_checks.dense(kept.knowledge) for kept in self._memory}
        if not providers or span.amount == 0:
            return Report()
        work = Rewriting(learner, self.layer, providers, objective=self._objective, by_layer=self.teacher == "layer")
        pipelines = Pipelines(
            tuple(providers), work.own, combine=self.combine, settings=self._map_settings, lr=self.map_lr
        )
        if self.persist:
            pipelines.resume(self._maps)
        mark = learner.mark()
        try:
            report = work.run(span, pipelines, each_step=self.commit == "step", rest=self.rest, guard=self.guard)
        except Diverged:
            report = Report(providers=tuple(providers), committed=False)
        if not report.committed:
            learner.restore(mark)
        elif self.persist:
            self._maps |= pipelines.state_dict()
        return report

    def state_dict(self) -> Mapping[str, Any]:
        return {**self._memory.state_dict(), "maps": dict(self._maps)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._memory.load_state_dict(state)
        self._maps = dict(state["maps"])

    @property
    def _objective(self) -> Objective:
        return Objective(self.alpha, self.temperature, self.direction, self.control)

    @property
    def _map_settings(self) -> MapSettings:
        return MapSettings(self.mix, self.mix == "out" if self.mix_bias is None else self.mix_bias, self.start)

    def _layers_asked(self, learner: Learner) -> tuple[str, ...]:
        """The layer and all layers after it, in the order in which the model registers them."""
        named = [layer.name for layer in learner.describe().layers]
        return tuple(named[named.index(self.layer) :])
