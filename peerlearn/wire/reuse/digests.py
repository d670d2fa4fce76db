"""A tensor's name by its content, so that two peers can tell without sending it that they hold the same.

Not a cryptographic hash, for its speed (xxh3: as fast as memory). It need not be one: a consumer offers a provider only
the names that this provider has given. A provider that forges two tensors of one name only keeps its own consumers from
an update, which it could as well have withheld.
"""

import functools
import weakref
from collections.abc import Iterable, Sequence

import torch
import xxhash
from torch import Tensor

from peerlearn.knowledge import Sparse
from peerlearn.wire.tensors import all_bytes


def digest(tensor: Tensor | Sparse) -> bytes:
    """16 bytes: of dtype, shape and elements, bit by bit; of a sparse tensor also of where its values stand."""
    if isinstance(tensor, Sparse):
        return _hashed(f"sparse {tensor.values.dtype} {tuple(tensor.shape)}", tensor.indices, tensor.values)
    return _hashed(_about(tensor), tensor)


def _about(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"


def _hashed(about: str, *tensors: Tensor) -> bytes:
    return _combined(about, all_bytes(tensors))


def _combined(about: str, pieces: Iterable[Iterable[memoryview]]) -> bytes:
    hashed = xxhash.xxh3_128(about.encode())
    for parts in pieces:
        for part in parts:
            hashed.update(part)
    return hashed.digest()


class Digests:
    """Digests of tensors that are sent again and again: those of a snapshot are hashed once for all consumers. A tensor
    that was changed in place meanwhile is hashed anew. One thread at a time."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], int, bytes]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def of_all(self, tensors: Sequence[Tensor | Sparse]) -> list[bytes]:
        """`of` each, in order."""
        missing = [t for t in tensors if isinstance(t, Tensor) and not t.is_inference() and self._remembered(t) is None]
        for tensor, parts in zip(missing, all_bytes(missing), strict=True):
            self._remember(tensor, _combined(_about(tensor), [parts]))
        return [self.of(tensor) for tensor in tensors]

    def of(self, tensor: Tensor | Sparse) -> bytes:
        """The digest, 16 bytes, from memory where the tensor is known and unchanged."""
        """The digest of a tensor, from memory where it has not changed since it was hashed."""
        if isinstance(tensor, Sparse) or tensor.is_inference():  # these do not tell whether they were changed
            return digest(tensor)
        known = self._remembered(tensor)
        if known is None:
            known = digest(tensor)
            self._remember(tensor, known)
        return known

    def _remembered(self, tensor: Tensor) -> bytes | None:
        there, version, known = self._known.get(id(tensor), (None, 0, b""))
        return known if there is not None and there() is tensor and version == tensor._version else None

    def _remember(self, tensor: Tensor, known: bytes) -> None:
        key = id(tensor)
        self._known[key] = weakref.ref(tensor, functools.partial(_forget, self._known, key)), tensor._version, known


def _forget(known: dict[int, tuple[weakref.ref[Tensor], int, bytes]], key: int, gone: weakref.ref[Tensor]) -> None:
    """A tensor has been freed. Its address may be another's by now."""
    entry = known.get(key)
    if entry is not None and entry[0] is gone:
        del known[key]


def on_cpu(tensor: Tensor) -> Tensor:
    """Detached, contiguous, on the CPU: as it would arrive."""
    return tensor.detach().resolve_neg().cpu().contiguous()


def bits(tensor: Tensor) -> Tensor:
    """A contiguous tensor's elements as whole numbers (n,), equal only for the same bits."""
    return tensor.reshape(-1).view(_WHOLE[tensor.element_size()])


_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
