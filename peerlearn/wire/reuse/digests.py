"""A tensor's name by its content, so that two peers can tell without sending it that they hold the same.

Not a cryptographic hash, for its speed (xxh3: as fast as memory). It need not be one: a consumer offers a provider only
the names of what that provider has sent, so whoever makes two tensors of one name can only keep its own consumers from
an update that it could as well not have made.
"""

import weakref

import torch
import xxhash
from torch import Tensor

from peerlearn.knowledge import Sparse
from peerlearn.wire.tensors import bytes_of


def digest(tensor: Tensor | Sparse) -> bytes:
    """16 bytes: of dtype, shape and elements, bit by bit; of a sparse tensor also of where its values stand."""
    if isinstance(tensor, Sparse):
        return _hashed(f"sparse {tensor.values.dtype} {tuple(tensor.shape)}", tensor.indices, tensor.values)
    return _hashed(f"{tensor.dtype} {tuple(tensor.shape)}", tensor)


def _hashed(about: str, *tensors: Tensor) -> bytes:
    hashed = xxhash.xxh3_128(about.encode())
    for tensor in tensors:
        for part in bytes_of(tensor):
            hashed.update(part)
    return hashed.digest()


class Digests:
    """Of tensors that others are given again and again: a snapshot's are hashed once, for all who ask. One thread at
    a time. A tensor that was changed in place meanwhile is hashed anew."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], int, bytes]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def of(self, tensor: Tensor | Sparse) -> bytes:
        if isinstance(tensor, Sparse) or tensor.is_inference():  # these do not tell whether they were changed
            return digest(tensor)
        key = id(tensor)
        there, version, known = self._known.get(key, (None, 0, b""))
        if there is None or there() is not tensor or version != tensor._version:
            known = digest(tensor)
            self._known[key] = weakref.ref(tensor, lambda _: self._known.pop(key, None)), tensor._version, known
        return known


def on_cpu(tensor: Tensor) -> Tensor:
    """Detached, contiguous, on the CPU: as it would arrive."""
    return tensor.detach().resolve_neg().cpu().contiguous()


def bits(tensor: Tensor) -> Tensor:
    """A contiguous tensor's elements as whole numbers (n,), equal only for the same bits."""
    return tensor.reshape(-1).view(_WHOLE[tensor.element_size()])


_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
