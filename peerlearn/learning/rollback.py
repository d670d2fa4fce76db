"""Rollback points: copies of a learner's state to which it can return, bit for bit."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass(frozen=True, slots=True, eq=False)
class RollbackPoint:
    """Copies of everything that training changes. Can be restored any number of times."""

    tensors: tuple[Tensor, ...]
    """Parameters and all buffers, in the module's order."""
    grads: tuple[Tensor | None, ...]
    modes: tuple[bool, ...]
    """Train or eval mode of each module."""
    optimizer: dict[Tensor, dict[str, Any]]
    groups: tuple[dict[str, Any], ...]
    """Settings of the optimizer's parameter groups."""
    rng: Tensor
    sampler: tuple[int, int]
    """Epoch and position of the sampler."""
    steps: int


def take(model: nn.Module, optimizer: Optimizer, rng: Tensor, sampler: tuple[int, int], steps: int) -> RollbackPoint:
    """Copy the present state of a model and its optimizer."""
    return RollbackPoint(
        tensors=tuple([t.detach().clone() for t in _tensors(model)]),
        grads=tuple([None if p.grad is None else p.grad.clone() for p in model.parameters()]),
        modes=tuple([module.training for module in model.modules()]),
        optimizer={p: _copied(state) for p, state in optimizer.state.items()},
        groups=tuple([{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]),
        rng=rng,
        sampler=sampler,
        steps=steps,
    )


def put_back(mark: RollbackPoint, model: nn.Module, optimizer: Optimizer) -> None:
    """Restore the model, its modes and gradients, and the optimizer. `Optimizer.load_state_dict` would not do: it casts
    state to the parameter's dtype."""
    for tensor, kept in zip(_tensors(model), mark.tensors, strict=True):
        tensor.detach().copy_(kept)
    for parameter, grad in zip(model.parameters(), mark.grads, strict=True):
        parameter.grad = None if grad is None else grad.clone()
    for module, mode in zip(model.modules(), mark.modes, strict=True):
        module.training = mode
    optimizer.state = defaultdict(dict, {p: _copied(state) for p, state in mark.optimizer.items()})
    for group, kept_group in zip(optimizer.param_groups, mark.groups, strict=True):
        group.update(kept_group)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}
