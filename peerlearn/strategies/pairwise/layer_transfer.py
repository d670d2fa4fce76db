"""One transfer phase of pairwise layer transfer: the student with its rewritten layer, its loss, and the commit.

Goldstein et al. 2021, equations (3) to (5).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from peerlearn.learning import losses
from peerlearn.learning.interruption import Diverged
from peerlearn.learning.learner import Batch, Learner
from peerlearn.learning.report import Report
from peerlearn.learning.sampler import seeded_rng
from peerlearn.learning.state import in_mode
from peerlearn.strategies.pairwise.pipelines import Pipelines
from peerlearn.strategies.pairwise.transfer_maps import LinearLayer
from peerlearn.types import Span

Direction = Literal["forward", "reverse"]
"""Direction of the KL divergence; reverse is KL(own || provider)."""
Teaching = Literal["snapshot", "layer"]
"""What a provider sends: its whole snapshot, or one layer and those after it."""
Control = Literal["", "random-weights", "uniform-teacher"]
"""What is replaced by noise to measure its worth, see `Pairwise`."""


@dataclass(frozen=True, slots=True)
class Objective:
    """Equation (5) without its factor 1/2, to which Adam is insensitive: alpha * L1 + (1 - alpha) * L2."""

    alpha: float
    temperature: float
    direction: Direction
    control: Control

    def agreement(self, teachers: list[Tensor], student: Tensor) -> Tensor:
        """L2, equation (4): mean over providers of the divergence of logits (B, C), summed in float64; a scalar."""
        total = torch.zeros((), dtype=torch.float64, device=student.device)
        for teacher in teachers:
            total = total + self._divergence(teacher, student).double()
        return (total / len(teachers)).to(student.dtype)

    def _divergence(self, teacher: Tensor, student: Tensor) -> Tensor:
        if self.direction == "reverse":
            return losses.kl(student, teacher.detach(), self.temperature)
        return losses.distill_kl(teacher, student, self.temperature)


class Rewriting:
    """The fixed parts of a transfer phase. Everything runs through functional calls on detached tensors, so that no
    gradient reaches the model or a teacher. With `rest` the model's other parameters are trained too."""

    def __init__(
        self,
        learner: Learner,
        layer: str,
        providers: Mapping[str, Mapping[str, Tensor]],
        *,
        objective: Objective,
        by_layer: bool,
    ) -> None:
        self._learner, self._layer, self._objective = learner, layer, objective
        self._providers = tuple(providers)
        here = learner.device
        given = [{name: tensor.to(here) for name, tensor in tensors.items()} for tensors in providers.values()]
        self.own = self._layer_of({name: t.detach().clone() for name, t in learner.state.items()})
        self._theirs = [self._layer_of(tensors) for tensors in given]
        if objective.control == "random-weights":
            seeds = zip(self._providers, self._theirs, strict=True)
            self._theirs = [_noise_like(layer, learner.seed, provider) for provider, layer in seeds]
        self._teachers: list[nn.Module] = []
        self._swaps: list[dict[str, Tensor]] = []
        if by_layer:
            self._swaps = given
        else:
            self._teachers = [learner.build(tensors) for tensors in given]

    def run(self, span: Span, pipelines: Pipelines, *, each_step: bool, rest: bool, guard: float | None) -> Report:
        """Train the maps for a span, then write the layer that they make into the model.

        `each_step`: each new layer is the own layer of the next step. `guard`: the largest relative increase of the
        loss. Beyond it nothing is written, the report says committed=False, and the caller restores the learner. Raises
        Diverged, Interrupted.
        """
        learner, own = self._learner, self.own
        probes = learner.preview(span)
        before = self._mean_loss(own, probes)
        total, samples, steps = 0.0, 0, 0
        with in_mode(learner.model, training=rest):
            for batch in learner.batches(span):
                with learner.chance("transfer"):
                    value = self._step(batch, pipelines, own, rest=rest)
                if each_step:
                    own = _detached(pipelines.layer(self._theirs, own))
                total, samples, steps = total + value * len(batch), samples + len(batch), steps + 1
        made = own if each_step else _detached(pipelines.layer(self._theirs, own))
        after = self._mean_loss(made, probes)
        if committed := guard is None or (isfinite(after) and after <= before * (1 + guard)):
            # an unchanged tensor keeps its optimizer state
            was = self._named(self.own)
            learner.overwrite({name: t for name, t in self._named(made).items() if not torch.equal(t, was[name])})
        return Report(
            steps=steps,
            samples=samples,
            loss=total / samples,
            notes={"loss_before": before, "loss_after": after, "map_moved": pipelines.moved()},
            providers=self._providers,
            committed=committed,
        )

    def loss(self, batch: Batch, layer: LinearLayer, *, rest: bool = False) -> Tensor:
        """alpha * L1 + (1 - alpha) * L2 of the student with this layer on one batch; a scalar."""
        student = self._student(batch.x, layer, rest=rest)
        own = self._learner.loss(student, batch.y)
        if self._objective.alpha == 1:
            return own
        agreement = self._objective.agreement(self._teacher_logits(batch.x), student)
        return self._objective.alpha * own + (1 - self._objective.alpha) * agreement

    def _step(self, batch: Batch, pipelines: Pipelines, own: LinearLayer, *, rest: bool) -> float:
        loss = self.loss(batch, pipelines.layer(self._theirs, own), rest=rest)
        value = float(loss.detach())
        if not isfinite(value):
            raise Diverged(f"the transfer loss is {value}; lower map_lr")
        optimizer = self._learner.optimizer
        if rest:
            optimizer.zero_grad(set_to_none=True)
        pipelines.step(loss)
        if rest:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return value

    def _student(self, x: Tensor, layer: LinearLayer, *, rest: bool) -> Tensor:
        fixed = {} if rest else {name: p.detach() for name, p in self._learner.model.named_parameters()}
        logits: Tensor = functional_call(self._learner.model, {**fixed, **self._named(layer)}, (x,))
        return logits

    @torch.no_grad()
    def _teacher_logits(self, x: Tensor) -> list[Tensor]:
        if self._objective.control == "uniform-teacher":
            return [torch.zeros(len(x), self._learner.classes, device=x.device) for _ in self._providers]
        if self._teachers:
            return [teacher(x) for teacher in self._teachers]
        with in_mode(self._learner.model, training=False):
            return [functional_call(self._learner.model, swap, (x,)) for swap in self._swaps]

    @torch.no_grad()
    def _mean_loss(self, layer: LinearLayer, batches: tuple[Batch, ...]) -> float:
        with in_mode(self._learner.model, training=False):
            return sum(float(self.loss(batch, layer)) for batch in batches) / len(batches)

    def _layer_of(self, tensors: Mapping[str, Tensor]) -> LinearLayer:
        return LinearLayer(tensors[f"{self._layer}.weight"], tensors.get(f"{self._layer}.bias"))

    def _named(self, layer: LinearLayer) -> dict[str, Tensor]:
        named = {f"{self._layer}.weight": layer.weight}
        return named if layer.bias is None else {**named, f"{self._layer}.bias": layer.bias}


def _detached(layer: LinearLayer) -> LinearLayer:
    return LinearLayer(layer.weight.detach(), None if layer.bias is None else layer.bias.detach())


def _noise_like(layer: LinearLayer, *seed: object) -> LinearLayer:
    rng = seeded_rng("control", *seed)

    def noise(tensor: Tensor) -> Tensor:
        drawn = torch.randn(tensor.shape, generator=rng, dtype=torch.float64)
        spread = tensor.double().std(correction=0)
        return (drawn.to(tensor.device) * spread + tensor.double().mean()).to(tensor.dtype)

    return LinearLayer(noise(layer.weight), None if layer.bias is None else noise(layer.bias))
