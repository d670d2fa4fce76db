"""The parts of cloned distillation: phases with a fresh optimizer, ensembles of clones, teachers as logits.

Lee, Yoo and Kwak 2020, "Asynchronous edge learning using cloned knowledge distillation", sections 2 and 3.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from peerlearn.errors import ConfigError, LearnerError
from peerlearn.learning import losses, state
from peerlearn.learning.interruption import Diverged
from peerlearn.learning.learner import Batch, Learner, Objective
from peerlearn.learning.report import Report
from peerlearn.learning.rng import seeded
from peerlearn.learning.sampler import derived
from peerlearn.strategies.cloned.consensus import consensus
from peerlearn.strategies.shared.optim import paced
from peerlearn.types import Span

Reduce = Literal["sum", "mean"]
"""How the terms of several teachers are combined."""
State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Training settings of one phase: fresh SGD, a learning rate multiplied by `decay` at half and again at three
    quarters of the phase, gradients clipped to the norm `clip` (None: not clipped). Raises ConfigError."""

    lr: float
    momentum: float
    weight_decay: float
    decay: float
    clip: float | None

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"lr must be positive, not {self.lr}")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum must lie between 0 and 1, not {self.momentum}")
        if not self.weight_decay >= 0:
            raise ConfigError(f"weight_decay cannot be negative: {self.weight_decay}")
        if not 0 < self.decay <= 1:
            raise ConfigError(f"decay must be a share above 0 and up to 1 (a constant rate), not {self.decay}")
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"clip must be positive, or None for no clipping, not {self.clip}")

    def pieces(self, span: Span) -> list[tuple[Span, float]]:
        """The phase cut at half and three quarters, rounded up: each piece with its learning rate."""
        cuts = [0, math.ceil(span.amount / 2), math.ceil(span.amount * 3 / 4), span.amount]
        return [
            (Span(end - begin, span.unit), self.lr * self.decay**nth)
            for nth, (begin, end) in enumerate(pairwise(cuts))
            if end > begin
        ]


def run_phase(learner: Learner, span: Span, recipe: Recipe, loss: Objective | None = None) -> Report:
    """Train the learner's model for one phase by `loss` (default: its own). The learner's own optimizer is not used,
    and keeps its state. Raises Diverged, Interrupted, LearnerError."""
    own = learner.optimizer
    trained = [p for p in learner.model.parameters() if p.requires_grad]
    learner.optimizer = torch.optim.SGD(
        trained, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    reports = []
    try:
        with paced(learner, clip=recipe.clip, cosine=None):
            for piece, rate in recipe.pieces(span):
                learner.optimizer.param_groups[0]["lr"] = rate
                reports.append(learner.fit(piece, loss=loss))
    finally:
        learner.optimizer = own
    samples = sum(report.samples for report in reports)
    mean = sum(report.loss * report.samples for report in reports) / samples if samples else float("nan")
    return Report(steps=sum(report.steps for report in reports), samples=samples, loss=mean)


def mean_logits(every: Sequence[Tensor]) -> Tensor:
    """Mean over the members' logits (N, C), summed in float64."""
    return torch.stack(list(every)).double().mean(dim=0).to(every[0].dtype)


def afresh(learner: Learner, *seed: object) -> dict[str, Tensor]:
    """A whole state of the learner's architecture with new initial weights, which depend on the seed alone."""
    model = copy.deepcopy(learner.template)
    with seeded(derived("afresh", *seed)), torch.no_grad():
        for module in model.modules():
            if _renewable(module):
                module.reset_parameters()  # type: ignore[operator]  # _renewable checked that it is callable
    return state.copied(state.persistent(model))


def check_renewable(learner: Learner) -> None:
    """Raises LearnerError when a module with weights has no `reset_parameters`, so that it cannot start anew."""
    for name, module in learner.model.named_modules():
        if next(module.parameters(recurse=False), None) is not None and not _renewable(module):
            raise LearnerError(
                f"starting afresh needs new initial weights, but {name or 'the model'} ({type(module).__name__}) has "
                f"no reset_parameters(); give it one, or use init 'clone'"
            )


def _renewable(module: nn.Module) -> bool:
    return callable(getattr(module, "reset_parameters", None))


@dataclass(frozen=True, slots=True, eq=False)
class LogitTeacher:
    """An edge's ensemble as logits (N, C) on the hub's own samples, with rising sample ids int64 (N,). Computed once,
    in eval mode; the edge's networks are not kept."""

    sender: str
    ids: Tensor
    logits: Tensor
    member_accuracy: float = float("nan")
    """Mean accuracy of the single members on these samples; not saved."""

    def of(self, ids: Tensor) -> Tensor:
        """Logits (B, C) for sample ids int64 (B,)."""
        return self.logits[torch.searchsorted(self.ids, ids)]


def teacher_of(learner: Learner, sender: str, members: Sequence[State]) -> LogitTeacher:
    """The teacher v(x) = mean of the members' logits, for every x of the learner's private set."""
    ids = torch.cat([batch.ids for batch in learner.one_pass()])
    said = [_logits(learner, learner.build(member)) for member in members]
    right = torch.stack([logits.argmax(dim=1) for logits in said]) == _labels(learner)
    return LogitTeacher(sender, ids, mean_logits(said), float(right.double().mean()))


def teaching_loss(
    learner: Learner, teachers: Sequence[LogitTeacher], *, temperature: float, weight: float, reduce: Reduce
) -> Objective:
    """Equation (2): L = CE(F(x), y) + weight * sum over teachers m of KD_t(v_m(x) -> F(x)). One teacher gives equation
    (1). `reduce` mean divides the sum by the number of teachers."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        logits = model(batch.x)
        own = learner.loss(logits, batch.y)
        if weight == 0:
            return own
        said = [teacher.of(batch.ids).to(logits.device) for teacher in teachers]
        total = torch.stack([losses.distill_kl(v, logits, temperature).double() for v in said]).sum()
        if reduce == "mean":
            total = total / len(said)
        return own + (weight * total).to(own.dtype)

    return loss


def study(
    learner: Learner, span: Span, recipe: Recipe, loss: Objective, newest: LogitTeacher, *, suspect: float | None
) -> Report:
    """Train phase 2 by this loss. The report is not committed when accuracy on the learner's own set fell by more than
    `suspect`; the caller then restores the learner. Raises Diverged, also when outputs are not finite at the end."""
    y = _labels(learner)
    before = consensus(newest.logits, _logits(learner, None), y)
    report = run_phase(learner, span, recipe, loss)
    logits = _logits(learner, None)
    if not bool(torch.isfinite(logits).all()):
        raise Diverged("the outputs are not finite any more; lower lr or clip")
    after = consensus(newest.logits, logits, y)
    harmed = suspect is not None and before.student_accuracy - after.student_accuracy > suspect
    notes = {
        "accuracy_before": before.student_accuracy,
        "accuracy_after": after.student_accuracy,
        "consensus": after.score,
        "teacher_accuracy": after.teacher_accuracy,
        "member_accuracy": newest.member_accuracy,
        "suspect": float(harmed),
    }
    return replace(report, notes=notes, committed=not harmed)


def train_members(
    learner: Learner, span: Span, recipe: Recipe, start: State, amount: int
) -> tuple[list[dict[str, Tensor]], Report]:
    """Phase 1: train `amount` models from one start. They use successive epochs of the learner's batch order, and so
    differ only by the order of batches. The learner's model is the first of them afterwards."""
    made, reports = [], []
    for _ in range(amount):
        learner.overwrite(start)
        reports.append(run_phase(learner, span, recipe))
        made.append(state.copied(learner.state))
    learner.overwrite(made[0])
    loss = sum(report.loss for report in reports) / amount
    steps, samples = sum(report.steps for report in reports), sum(report.samples for report in reports)
    return made, Report(steps=steps, samples=samples, loss=loss)


def train_other(learner: Learner, span: Span, recipe: Recipe, *seed: object) -> dict[str, Tensor]:
    """Train a model of the same architecture from another seed as the learner's own was trained. The learner's own is
    unchanged."""
    mine = state.copied(learner.state)
    learner.overwrite(afresh(learner, *seed))
    run_phase(learner, span, recipe)
    made = state.copied(learner.state)
    learner.overwrite(mine)
    return made


def _labels(learner: Learner) -> Tensor:
    """Labels of the learner's private set, ids rising, int64 (N,) on the CPU."""
    return torch.cat([batch.y.cpu() for batch in learner.one_pass()])


def _logits(learner: Learner, network: nn.Module | None) -> Tensor:
    """Logits of a network (None: the learner's own) on the learner's private set, ids rising, float (N, C) on the
    CPU."""
    return torch.cat([learner.logits(batch.x, model=network) for batch in learner.one_pass()])
