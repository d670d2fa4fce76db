"""A model's state as named tensors: what travels, its signatures, and the check of received tensors."""

import copy
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from peerlearn.errors import KnowledgeError, LearnerError
from peerlearn.types import Layer

_TOGETHER = 1 << 16
"""Up to this many elements, tensors are joined and reduced in one call: for small ones a call costs more than the
reading."""


def persistent(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name: the live tensors, not copies.

    Raises LearnerError when a module keeps extra state that is not a tensor, since it could be neither shown nor saved.
    """
    state = model.state_dict(keep_vars=True)
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise LearnerError(
                f"the model keeps {name!r}, a {type(value).__name__}, in its state; only tensors can travel and be "
                f"saved, so register it as a buffer or leave it out of get_extra_state()"
            )
    return dict(state)


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detached, contiguous copies on the CPU that share nothing with the originals."""
    return {name: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for name, t in tensors.items()}


def tree(value: Any) -> Any:
    """A copy of a state dict: new containers, tensors detached and cloned, plain values as they are."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: tree(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(tree, value))
    return value if isinstance(value, str | bytes | int | float | None) else copy.deepcopy(value)


def architecture(state: Mapping[str, Tensor]) -> str:
    """Signature of a whole state: sha256 over sorted names, shapes and dtypes, as 64 hex digits."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name}|{tuple(state[name].shape)}|{dtype_name(state[name])}\n".encode())
    return digest.hexdigest()


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over sorted names, shapes, dtypes and bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tuple(tensor.shape)}|{dtype_name(tensor)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def dtype_name(tensor: Tensor) -> str:
    """Name of the tensor's dtype, such as "float32"."""
    return str(tensor.dtype).removeprefix("torch.")


def layers(model: nn.Module) -> tuple[Layer, ...]:
    """Every module with a weight of its own, in the order of registration."""
    return tuple(
        Layer(name, type(module).__name__, tuple(module.weight.shape))
        for name, module in model.named_modules()
        if name and isinstance(getattr(module, "weight", None), nn.Parameter)
    )


def check_fit(tensors: Mapping[str, object], wanted: Mapping[str, Tensor], *, whole: bool) -> dict[str, Tensor]:
    """The tensors, after a check that each is one of `wanted` in name, shape and dtype, dense and finite.

    `whole`: none of `wanted` may be missing. Raises KnowledgeError, which names the first tensor that does not fit.
    """
    if unknown := sorted(set(tensors) - set(wanted)):
        raise KnowledgeError(f"tensor {unknown[0]!r} is not part of this model")
    if whole and (missing := sorted(set(wanted) - set(tensors))):
        raise KnowledgeError(f"tensor {missing[0]!r} of this model is missing")
    fitting = {}
    for name in sorted(tensors):
        tensor, own = tensors[name], wanted[name]
        if not isinstance(tensor, Tensor):
            raise KnowledgeError(f"tensor {name!r} came sparse where the whole tensor was asked for")
        if tensor.shape != own.shape:
            raise KnowledgeError(f"tensor {name!r} has shape {tuple(tensor.shape)}, this model's is {tuple(own.shape)}")
        if tensor.dtype != own.dtype:
            raise KnowledgeError(f"tensor {name!r} is {dtype_name(tensor)}, this model's is {dtype_name(own)}")
        fitting[name] = tensor
    if not math.isfinite(magnitude(fitting.values())):
        for name, tensor in fitting.items():
            check_finite(name, tensor)
    return fitting


def magnitude(tensors: Iterable[Tensor]) -> float:
    """Largest absolute value over the floating tensors; 0 without any. Not finite when one of their values is not."""
    flat = [t.detach().reshape(-1) for t in tensors if t.is_floating_point() and t.numel()]
    if len(flat) > 1 and sum([t.numel() for t in flat]) <= _TOGETHER and len({t.device for t in flat}) == 1:
        flat = [torch.cat(flat)]
    bounds = [abs(float(bound)) for tensor in flat for bound in tensor.aminmax()]
    return max(bounds, default=0.0) if not any(map(math.isnan, bounds)) else math.nan


def check_finite(name: str, tensor: Tensor) -> None:
    """Raises KnowledgeError when a value is NaN or infinite."""
    if not tensor.is_floating_point() or not tensor.numel():
        return
    least, most = tensor.detach().aminmax()
    if not (math.isfinite(least) and math.isfinite(most)):  # with a NaN among the values both are NaN
        raise KnowledgeError(f"tensor {name!r} holds values that are not finite")


def frozen(template: nn.Module, tensors: Mapping[str, Tensor], device: torch.device) -> nn.Module:
    """A copy of the template with this state on the device: eval mode, no gradients."""
    model = copy.deepcopy(template)
    model.load_state_dict(dict(tensors))
    return model.to(device).eval().requires_grad_(False)


def refill(network: nn.Module, template: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a network made by `frozen` from this template another whole state. Its non-persistent buffers are reset to
    the template's, since an evaluation may have changed them."""
    live = persistent(network)
    for name, buffer in template.named_buffers():
        if name not in live:
            network.get_buffer(name).copy_(buffer)
    for name, tensor in live.items():
        tensor.copy_(tensors[name])


def outputs(net: nn.Module, x: Tensor, device: torch.device, *, chunk: int) -> list[Tensor]:
    """Outputs of a network for inputs (B, ...), on the CPU, in eval mode without gradients; a list of tensors for at
    most `chunk` inputs each."""
    with torch.no_grad(), in_mode(net, training=False):
        return [net(part.to(device)).cpu() for part in (x.split(chunk) if len(x) > chunk else (x,)) if len(part)]


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """A block in train or eval mode. Afterwards every module has its former mode."""
    before = [(module, module.training) for module in model.modules()]
    if any([mode is not training for _, mode in before]):  # setting a mode costs more than a small network's step
        model.train(training)
    try:
        yield
    finally:
        for module, mode in before:
            if module.training is not mode:
                module.training = mode
