"""Transfer maps of pairwise layer transfer: from the providers' layers and the own layer to a new own layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

Mix = Literal["out", "in"]
"""The side of the weight on which maps act, see `MapSettings`."""
Start = Literal["own", "average"]
"""The initial map, see `MapSettings`."""


class LinearLayer(NamedTuple):
    """A dense layer: weight (m, n), and bias (m,) or None."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, slots=True)
class MapSettings:
    """`mix` out: W* = sum_j A_j W_j with A_j (m, m), and biases through the same A_j; this measured best. `mix` in: W*
    = sum_j W_j A_j + 1 c^T with A_j (n, n) and c (n,), equation (2) of the paper, and biases through separate maps.
    Without `mix_bias` the own bias stays. `start`: maps that give the own layer, or the average of all layers."""

    mix: Mix
    mix_bias: bool
    start: Start


class TransferMap(nn.Module):
    """One map over the layers of k providers and the own layer, which has the last matrix in each stack.

    With start `own` it is at first the identity on the own layer, bit for bit: A = [0; I], c = 0.
    """

    def __init__(self, own: LinearLayer, providers: int, settings: MapSettings) -> None:
        super().__init__()
        m, n = own.weight.shape
        self._settings = settings
        size = m if settings.mix == "out" else n
        self.matrices = nn.Parameter(_start(providers + 1, size, settings.start, own.weight))
        self.offset: nn.Parameter | None = None
        self.bias_matrices: nn.Parameter | None = None
        if settings.mix == "in":
            self.offset = nn.Parameter(torch.zeros(n, dtype=own.weight.dtype, device=own.weight.device))
            if settings.mix_bias and own.bias is not None:
                self.bias_matrices = nn.Parameter(_start(providers + 1, m, settings.start, own.weight))

    def forward(self, theirs: Sequence[LinearLayer], own: LinearLayer) -> LinearLayer:
        """The new layer, in the own layer's dtype. Sums over providers are in float64."""
        stack = (*theirs, own)
        if self._settings.mix == "out":
            weight = _sum([a @ layer.weight for a, layer in zip(self.matrices, stack, strict=True)])
        else:
            weight = _sum([layer.weight @ a for a, layer in zip(self.matrices, stack, strict=True)])
            weight = weight if self.offset is None else weight + self.offset
        return LinearLayer(weight, self._bias(stack, own))

    def _bias(self, stack: Sequence[LinearLayer], own: LinearLayer) -> Tensor | None:
        if own.bias is None or not self._settings.mix_bias:
            return own.bias
        matrices = self.matrices if self.bias_matrices is None else self.bias_matrices
        biases = [layer.bias for layer in stack if layer.bias is not None]
        return _sum([a @ bias for a, bias in zip(matrices, biases, strict=True)])


def mean_layer(layers: Sequence[LinearLayer]) -> LinearLayer:
    """Mean of layers of one shape, summed in float64 in the order given."""
    biases = [layer.bias for layer in layers if layer.bias is not None]
    return LinearLayer(
        _sum([layer.weight for layer in layers], divide=len(layers)),
        _sum(biases, divide=len(biases)) if biases else None,
    )


def _start(stack: int, size: int, start: Start, like: Tensor) -> Tensor:
    identity = torch.eye(size, dtype=like.dtype, device=like.device)
    if start == "average":
        return identity.expand(stack, size, size) / stack
    matrices = torch.zeros(stack, size, size, dtype=like.dtype, device=like.device)
    matrices[-1] = identity
    return matrices


def _sum(tensors: Sequence[Tensor], *, divide: int = 1) -> Tensor:
    total = tensors[0].double()
    for tensor in tensors[1:]:
        total = total + tensor.double()
    return (total / divide).to(tensors[0].dtype)
