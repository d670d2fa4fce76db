"""Top-k deltas: of a tensor that the consumer holds, the values that have changed most, to be put in a copy of it.

Values travel, not differences: what is brought up to date is exact. What is left out is not lost either: the next delta
is against what the consumer then holds, so that a provider that stops changing is reached bit by bit after at most
ceil(1 / share) answers.
"""

import math
from collections.abc import Collection

import torch
from torch import Tensor

from peerlearn.bounded import BoundedBytes
from peerlearn.knowledge import Sparse
from peerlearn.wire.reuse.digests import bits, on_cpu

SMALL = 256
"""Elements of a tensor below which it travels whole: its header is as long."""

_INDEX_BYTES = 4


def most_changed(new: Tensor, held: Tensor, share: float) -> Sparse | None:
    """The values of `new` (contiguous, floating, on the CPU) that differ most from `held`, of the same shape and dtype:
    all that differ when they are at most `share` of them. None when sending all of `new` is as short."""
    amount = math.ceil(new.numel() * share)
    if new.numel() < SMALL or amount * (new.element_size() + _INDEX_BYTES) >= new.nbytes:
        return None
    flat, changed = new.reshape(-1), bits(new) != bits(held)
    if int(changed.sum()) <= amount:
        indices = changed.nonzero().reshape(-1)
    else:
        indices = _distance(flat, held.reshape(-1), changed).topk(amount, sorted=False).indices.sort().values
    return Sparse(tuple(new.shape), indices, flat[indices])


def put(values: Sparse, held: Tensor) -> Tensor:
    """A copy of `held` in which the values stand."""
    whole = held.detach().clone(memory_format=torch.contiguous_format)
    whole.view(-1)[values.indices] = values.values
    return whole


def _distance(new: Tensor, held: Tensor, changed: Tensor) -> Tensor:
    """How far each element has moved, (n,); below zero where it has not. What is not finite comes first."""
    wide = torch.float64 if new.dtype == torch.float64 else torch.float32
    moved = (new.to(wide) - held.to(wide)).abs_().nan_to_num_(nan=math.inf, posinf=math.inf)
    return moved.masked_fill_(~changed, -1.0)


class Bases:
    """At the provider: the tensors that consumers are known to hold, by name and digest. At most `most` bytes; the one
    used longest ago is forgotten first. Consumers that ask for the same versions hold the same, and share an entry."""

    def __init__(self, most: int) -> None:
        self._kept: BoundedBytes[tuple[str, bytes], Tensor] = BoundedBytes(most, lambda tensor: tensor.nbytes)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors kept."""
        return self._kept.nbytes

    def find(self, name: str, held: Collection[bytes], like: Tensor) -> tuple[bytes, Tensor] | None:
        """The latest tensor of this name, and of the shape and dtype of `like`, whose digest is in `held`."""
        for (own, digest), tensor in self._kept.newest_first():
            if own == name and digest in held and tensor.shape == like.shape and tensor.dtype == like.dtype:
                return digest, tensor
        return None

    def keep(self, name: str, digest: bytes, tensor: Tensor) -> None:
        """Keep a tensor, which must not change any more."""
        if self._kept.get((name, digest)) is None:
            self._kept.put((name, digest), on_cpu(tensor))
