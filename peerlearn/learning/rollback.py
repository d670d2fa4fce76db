"""A point to which a learner can go back, bit for bit."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass(frozen=True, slots=True, eq=False)
class RollbackPoint:
    """Copies of everything that training changes. May be restored any number of times."""

    tensors: tuple[Tensor, ...]
    """Parameters and all buffers, in the order of the module."""
    grads: tuple[Tensor | None, ...]
    modes: tuple[bool, ...]
    optimizer: dict[Tensor, dict[str, Any]]
    groups: tuple[dict[str, Any], ...]
    rng: Tensor
    sampler: tuple[int, int]
    steps: int


def take(model: nn.Module, optimizer: Optimizer, rng: Tensor, sampler: tuple[int, int], steps: int) -> RollbackPoint:
    return RollbackPoint(
        tensors=tuple(t.detach().clone() for t in _tensors(model)),
        grads=tuple(None if p.grad is None else p.grad.clone() for p in model.parameters()),
        modes=tuple(module.training for module in model.modules()),
        optimizer={p: _copied(state) for p, state in optimizer.state.items()},
        groups=tuple({k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups),
        rng=rng,
        sampler=sampler,
        steps=steps,
    )


def put_back(mark: RollbackPoint, model: nn.Module, optimizer: Optimizer) -> None:
    """Model, its modes and gradients, and the optimizer as they were. Not through `Optimizer.load_state_dict`, which
    casts state to the dtype of the parameter."""
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
