"""Tensors as bytes and back: views where the memory allows it, copies only where it does not."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from peerlearn.errors import Corrupt, KnowledgeError
from peerlearn.knowledge import Sparse
from peerlearn.wire.manifest import ITEM_BYTES, elements, sections
from peerlearn.wire.v1 import fabric_pb2 as pb

DTYPES: Mapping[str, torch.dtype] = {name: getattr(torch, name) for name in ITEM_BYTES}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

_NUMPY = frozenset(DTYPES.values()) - {torch.bfloat16}
"""What numpy knows too."""

_MOST_INDEXED = 2**31
_BITMAP_STEP = 1 << 20  # bytes of a bitmap unpacked at a time: eight times as many are held for it


def to_wire(name: str, tensor: Tensor | Sparse, cast: str = "") -> tuple[pb.TensorHeader, tuple[memoryview, ...]]:
    """The manifest's line and the bytes of one tensor; views of its own memory when it is contiguous and on the CPU.

    `cast`, one of "", "bfloat16", "float16", "int8", is applied to wider floating dtypes only. Raises KnowledgeError.
    """
    if isinstance(tensor, Sparse):
        return _sparse_to_wire(name, tensor, cast)
    values, header = _cast(name, tensor, cast)
    header.shape.extend(values.shape)
    header.stored = values.numel()
    return header, bytes_of(values)


def all_to_wire(
    named: Mapping[str, Tensor | Sparse], cast: str = ""
) -> list[tuple[pb.TensorHeader, tuple[memoryview, ...]]]:
    """`to_wire` of each, in order."""
    return [to_wire(name, tensor, cast) for name, tensor in named.items()]


def all_from_wire(headers: Iterable[pb.TensorHeader], body: "Body") -> dict[str, Tensor | Sparse]:
    """`from_wire` of each, by name, in the order of the body. Raises Corrupt."""
    return {header.name: from_wire(header, body) for header in headers}


def from_wire(header: pb.TensorHeader, body: "Body") -> Tensor | Sparse:
    """The next tensor of a body, casts undone: a view of the body's memory where it is aligned. Raises Corrupt."""
    dtype = DTYPES[header.dtype]
    if header.encoding == pb.TensorHeader.DENSE:
        raw = body.take(header.stored * dtype.itemsize)  # as many as its shape has, or the header was refused
        return _uncast(header, _view(header, raw, dtype)).view(tuple(header.shape))
    sizes = [size for size, _ in sections(header)]
    values = _uncast(header, _view(header, body.take(sizes[0]), dtype))
    positions = body.take(sizes[1])
    indices = (
        _from_bitmap(header, positions) if header.encoding == pb.TensorHeader.BITMAP else _from_index(header, positions)
    )
    return Sparse(tuple(header.shape), torch.from_numpy(indices), values)


class Body:
    """A message's body, read from front to back."""

    def __init__(self, parts: Sequence[memoryview]) -> None:
        self._parts = list(reversed(parts))

    def take(self, nbytes: int) -> memoryview:
        """The next bytes: a view when they lie in one part, else a copy. Raises Corrupt at the end."""
        while self._parts and not len(self._parts[-1]):
            self._parts.pop()
        if nbytes == 0:
            return memoryview(b"")
        if self._parts and len(self._parts[-1]) >= nbytes:
            part = self._parts.pop()
            self._parts.append(part[nbytes:])
            return part[:nbytes]
        return self._gather(nbytes)

    def _gather(self, nbytes: int) -> memoryview:
        if sum(map(len, self._parts)) < nbytes:
            raise Corrupt(f"the body ends where {nbytes} more bytes should stand")
        place, filled = np.empty(nbytes, np.uint8).data, 0
        while filled < nbytes:
            part = self._parts.pop()
            piece = part[: nbytes - filled]
            place[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._parts.append(part[len(piece) :])
        return place


def bytes_of(tensor: Tensor) -> tuple[memoryview, ...]:
    """A tensor's elements in order: a view of its memory when it is contiguous and on the CPU. None when empty."""
    if not tensor.numel():
        return ()
    if tensor.is_cpu and tensor.dtype in _NUMPY and tensor.is_contiguous() and not tensor.is_neg():
        return (tensor.detach().numpy().data.cast("B"),)  # the same by four steps less
    whole = tensor.detach().resolve_neg().cpu().contiguous()
    flat = whole.as_strided((whole.numel(),), (1,))  # reshape would keep the stride of a tensor of one element
    return (flat.view(torch.uint8).numpy().data,)  # the memoryview holds the array, the array the tensor


def all_bytes(tensors: Iterable[Tensor]) -> list[tuple[memoryview, ...]]:
    """`bytes_of` each."""
    return [bytes_of(tensor) for tensor in tensors]


def dtype_name(name: str, tensor: Tensor) -> str:
    """The tensor's dtype as a manifest names it: "float32", ... Raises KnowledgeError for one that cannot travel."""
    if tensor.layout is not torch.strided or tensor.dtype not in _NAMES:
        raise KnowledgeError(
            f"tensor {name!r} is {tensor.dtype} ({tensor.layout}), which cannot be sent; send one of "
            f"{', '.join(DTYPES)}, dense"
        )
    return _NAMES[tensor.dtype]


# ---------------------------------------------------------------- sparse


def _sparse_to_wire(name: str, sparse: Sparse, cast: str) -> tuple[pb.TensorHeader, tuple[memoryview, ...]]:
    count = 1
    for size in sparse.shape:
        count *= size
    positions = _checked_positions(name, sparse, count)
    values, header = _cast(name, sparse.values, cast)
    header.shape.extend(sparse.shape)
    header.stored = values.numel()
    if count <= _MOST_INDEXED and 4 * len(positions) <= (count + 7) // 8:
        header.encoding = pb.TensorHeader.INDEX
        packed = positions.astype("<i4").view(np.uint8)
    else:
        header.encoding = pb.TensorHeader.BITMAP
        mask = np.zeros(count, np.bool_)
        mask[positions] = True
        packed = np.packbits(mask, bitorder="little")
    return header, bytes_of(values) + ((packed.data,) if packed.size else ())


def _checked_positions(name: str, sparse: Sparse, count: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    indices, values = sparse.indices, sparse.values
    if indices.dtype != torch.int64 or indices.dim() != 1 or values.dim() != 1 or len(indices) != len(values):
        raise KnowledgeError(
            f"sparse tensor {name!r}: indices must be int64 (k,) and values (k,), "
            f"not {indices.dtype} {tuple(indices.shape)} and {tuple(values.shape)}"
        )
    positions = indices.detach().cpu().numpy()
    if not _rising_below(positions, count):
        raise KnowledgeError(f"sparse tensor {name!r}: indices must rise and lie within shape {sparse.shape}")
    return positions


def _from_index(header: pb.TensorHeader, raw: memoryview) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    positions = np.frombuffer(raw, "<i4").astype(np.int64)
    if not _rising_below(positions, elements(header)):
        raise Corrupt(f"sparse tensor {header.name!r}: its indices do not rise, or leave its shape")
    return positions


def _from_bitmap(header: pb.TensorHeader, raw: memoryview) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    bits = np.frombuffer(raw, np.uint8)
    positions, filled = np.empty(header.stored, np.int64), 0
    for at in range(0, bits.size, _BITMAP_STEP):
        found = np.flatnonzero(np.unpackbits(bits[at : at + _BITMAP_STEP], bitorder="little")) + 8 * at
        if filled + found.size > positions.size:
            raise Corrupt(f"sparse tensor {header.name!r}: its bitmap marks more than its {header.stored} values")
        positions[filled : filled + found.size] = found
        filled += found.size
    if filled < positions.size:
        raise Corrupt(f"sparse tensor {header.name!r}: its bitmap marks {filled} values, {header.stored} are stored")
    if filled and positions[-1] >= elements(header):
        raise Corrupt(f"sparse tensor {header.name!r}: its bitmap marks a value beyond its shape")
    return positions


def _rising_below(positions: "np.ndarray[tuple[int], np.dtype[np.int64]]", count: int) -> bool:
    if not positions.size:
        return True
    return bool(positions[0] >= 0 and positions[-1] < count and (positions[1:] > positions[:-1]).all())


# ---------------------------------------------------------------- casts


def _cast(name: str, tensor: Tensor, cast: str) -> tuple[Tensor, pb.TensorHeader]:
    dtype = dtype_name(name, tensor)
    header = pb.TensorHeader(name=name, dtype=dtype)
    if not cast or not tensor.is_floating_point() or tensor.element_size() <= ITEM_BYTES[cast]:
        return tensor, header
    header.dtype, header.cast_from = cast, dtype
    if cast == "int8":
        values, header.scale = _quantized(name, tensor.detach())
        return values, header
    values = tensor.detach().to(DTYPES[cast])
    if not torch.equal(values.isinf(), tensor.isinf()):
        raise KnowledgeError(f"tensor {name!r} holds values too large for {cast}: ask without a cast")
    return values, header


def _quantized(name: str, tensor: Tensor) -> tuple[Tensor, float]:
    """int8 values and the scale that gives them back: scale = max|x| / 127, values = round(x / scale)."""
    most = float(tensor.abs().max()) if tensor.numel() else 0.0
    if not most < float("inf"):
        raise KnowledgeError(f"tensor {name!r} holds values that are not finite, which int8 cannot: ask without a cast")
    scale = most / 127 or 1.0
    # a scale that float32 would round to nothing, or coarsely, needs the wider division
    wide = tensor.double() if tensor.dtype == torch.float64 or scale < 1e-35 else tensor.float()
    return (wide / scale).round_().clamp_(-127, 127).to(torch.int8), scale


def _uncast(header: pb.TensorHeader, values: Tensor) -> Tensor:
    if not header.cast_from:
        return values
    dtype = DTYPES[header.cast_from]
    if header.dtype != "int8":
        return values.to(dtype)
    wide = values.double() if dtype == torch.float64 or header.scale < 1e-35 else values.float()
    return wide.mul_(header.scale).to(dtype)


def _view(header: pb.TensorHeader, raw: memoryview, dtype: torch.dtype) -> Tensor:
    if not len(raw):
        return torch.empty(0, dtype=dtype)
    if dtype is torch.bool and np.frombuffer(raw, np.uint8).max() > 1:
        raise Corrupt(f"tensor {header.name!r} is bool, and holds bytes other than 0 and 1")
    if not raw.readonly:
        values = torch.frombuffer(raw, dtype=dtype)
        if values.data_ptr() % dtype.itemsize == 0:
            return values
    return torch.frombuffer(np.frombuffer(raw, np.uint8).copy(), dtype=dtype)
