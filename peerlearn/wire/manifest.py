"""What a header may claim, and how many bytes of body each claim stands for. Checked before anything is allocated."""

import math
from collections.abc import Iterator

from peerlearn.config import Limits
from peerlearn.errors import Corrupt, Oversized
from peerlearn.wire.protocol import check_protocol
from peerlearn.wire.v1 import fabric_pb2 as pb

ITEM_BYTES = {
    "float16": 2,
    "float32": 4,
    "float64": 8,
    "bfloat16": 2,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "bool": 1,
}
FLOATS = frozenset({"float16", "float32", "float64", "bfloat16"})
CASTS = frozenset({"bfloat16", "float16", "int8"})

DIGEST_BYTES = 16
"""Of a tensor's digest, and at most of an answer's name."""

_INDEX_BYTES = 4
_MOST_INDEXED = 2**31
_HELD_INDEX_BYTES = 8  # indices are int64 once decoded
_ENCODINGS = frozenset(pb.TensorHeader.Encoding.values())


def elements(tensor: pb.TensorHeader) -> int:
    """prod(shape); 1 for a tensor without dimensions."""
    return math.prod(tensor.shape)


def sections(tensor: pb.TensorHeader) -> tuple[tuple[int, int], ...]:
    """(bytes, element width) of each run of the body that belongs to this tensor: its values, then its positions."""
    width = ITEM_BYTES[tensor.dtype]
    if is_held(tensor):
        return ()
    if tensor.encoding == pb.TensorHeader.DENSE:
        return ((elements(tensor) * width, width),)
    if tensor.encoding == pb.TensorHeader.BITMAP:
        return ((tensor.stored * width, width), ((elements(tensor) + 7) // 8, 1))
    return ((tensor.stored * width, width), (tensor.stored * _INDEX_BYTES, _INDEX_BYTES))


def is_held(tensor: pb.TensorHeader) -> bool:
    """Whether it is just one that the consumer holds, and nothing of it is in the body."""
    return bool(tensor.base) and not tensor.stored


def body_sections(header: pb.Header) -> Iterator[tuple[int, int]]:
    """(bytes, element width) of each run of the body, in order."""
    for tensor in header.tensors:
        yield from sections(tensor)


def check_header(header: pb.Header, limits: Limits) -> None:
    """Refuse a header that lies, contradicts itself, or asks for more than the limits take.

    Raises ForeignProtocol, Oversized or Corrupt.
    """
    check_protocol(header.protocol)
    _check_size(len(header.tensors), limits.tensors, "tensors")
    _check_size(header.body_bytes, limits.body_bytes, "bytes of tensors")
    for name, text in (("sender", header.sender), ("session", header.session), ("strategy", header.strategy)):
        _check_size(len(text), limits.name_chars, f"characters of {name}")
    _check_query(header.query, limits)
    check_answer_name(header.answer)
    _check_size(header.resumed_at, header.body_bytes, "bytes that have come of it")
    if header.tensors and not header.HasField("knowledge"):
        raise Corrupt(f"the header lists {len(header.tensors)} tensors but names no knowledge that they belong to")
    names: set[str] = set()
    total = held = 0
    for tensor in header.tensors:
        name = tensor.name
        plain = _plain_bytes(tensor, name, limits)
        if plain is None:
            _check_tensor(tensor, limits)
        if name in names:
            raise Corrupt(f"the header lists tensor {name!r} twice")
        names.add(name)
        total += sum(size for size, _ in sections(tensor)) if plain is None else plain
        held += _held_bytes(tensor) if plain is None else plain
    if total != header.body_bytes:
        raise Corrupt(f"the header declares {header.body_bytes} bytes of body, its tensors add up to {total}")
    _check_size(held, limits.body_bytes, "bytes of tensors once decoded")


def check_answer_name(answer: bytes) -> None:
    """Raises Oversized for an answer's name of more than DIGEST_BYTES: the receiver keeps it and sends it back."""
    _check_size(len(answer), DIGEST_BYTES, "bytes of the name of an answer")


def _check_query(query: pb.Query, limits: Limits) -> None:
    _check_size(len(query.select), limits.select_bytes, "bytes of query")
    _check_size(len(query.held), limits.tensors * DIGEST_BYTES, "bytes of names of tensors held")
    check_answer_name(query.resume.answer)
    if len(query.held) % DIGEST_BYTES:
        raise Corrupt(f"the query names tensors that are held in {len(query.held)} bytes, not {DIGEST_BYTES} each")
    if not 0 <= query.top <= 1:
        raise Corrupt(f"the query asks for a share of {query.top} of the values, which is not between 0 and 1")


def _plain_bytes(tensor: pb.TensorHeader, name: str, limits: Limits) -> int | None:
    """Bytes of what nearly all are, whole and as they are; None for what is to be looked at more closely.

    Hundreds come with every state, and of this look nothing may be left out, so it is as short as it can be.
    """
    shape, width = tensor.shape, ITEM_BYTES.get(tensor.dtype)
    if width is None or not name or len(name) > limits.name_chars or len(shape) > limits.dims:
        return None
    if tensor.encoding or tensor.cast_from or tensor.base or len(tensor.digest) not in (0, DIGEST_BYTES):
        return None
    count = math.prod(shape)
    if not count or count != tensor.stored or count * width > limits.body_bytes:
        return None
    return count * width


def _check_tensor(tensor: pb.TensorHeader, limits: Limits) -> None:
    if not tensor.name:
        raise Corrupt("the header lists a tensor without a name")
    _check_size(len(tensor.name), limits.name_chars, "characters of tensor name")
    where = f"tensor {tensor.name!r}"
    if tensor.dtype not in ITEM_BYTES:
        raise Corrupt(f"{where} has dtype {tensor.dtype[:40]!r}, which this peer does not know")
    if tensor.encoding not in _ENCODINGS:
        raise Corrupt(f"{where} has encoding {tensor.encoding}, which this peer does not know")
    _check_size(len(tensor.shape), limits.dims, f"dimensions of {where}")
    _check_cast(tensor, where)
    _check_names(tensor, where)
    _check_shape(tensor, limits, where)


def _check_cast(tensor: pb.TensorHeader, where: str) -> None:
    if not tensor.cast_from:
        return
    if tensor.cast_from not in FLOATS or tensor.dtype not in CASTS:
        raise Corrupt(f"{where} claims a cast from {tensor.cast_from[:40]!r} to {tensor.dtype}, which there is not")
    if tensor.dtype == "int8" and not 0 < tensor.scale < float("inf"):
        raise Corrupt(f"{where} has scale {tensor.scale}, which is not a positive number")


def _check_names(tensor: pb.TensorHeader, where: str) -> None:
    if len(tensor.digest) not in (0, DIGEST_BYTES) or len(tensor.base) not in (0, DIGEST_BYTES):
        raise Corrupt(f"{where} is named by a digest that does not have {DIGEST_BYTES} bytes")
    if tensor.base and (not tensor.digest or tensor.cast_from or tensor.encoding == pb.TensorHeader.DENSE):
        raise Corrupt(f"{where} builds on another, and is not whole, lossless and sparse as that must be")


def _check_shape(tensor: pb.TensorHeader, limits: Limits, where: str) -> None:
    extent = ITEM_BYTES[tensor.dtype]
    for size in tensor.shape:
        extent *= max(size, 1)  # a zero elsewhere must not hide a dimension that no tensor can have
        _check_size(extent, limits.body_bytes, f"bytes of {where}")
    count = elements(tensor)
    if tensor.encoding == pb.TensorHeader.DENSE and tensor.stored != count:
        raise Corrupt(f"{where} stores {tensor.stored} values where its shape has {count}")
    if tensor.stored > count:
        raise Corrupt(f"{where} stores {tensor.stored} values, more than the {count} its shape has")
    if tensor.encoding == pb.TensorHeader.INDEX and tensor.stored and count > _MOST_INDEXED:
        raise Corrupt(f"{where} has {count} elements, more than int32 can index")


def _held_bytes(tensor: pb.TensorHeader) -> int:
    """Memory of the decoded tensor: casts undone, positions as int64."""
    width = ITEM_BYTES[tensor.cast_from or tensor.dtype]
    if is_held(tensor):
        return 0
    whole = elements(tensor) * width if tensor.base else 0  # the copy that the values are put in
    sparse = tensor.encoding != pb.TensorHeader.DENSE
    # A cast makes values narrower, so `width` is the larger of the two.
    return whole + tensor.stored * (width + (_HELD_INDEX_BYTES if sparse else 0))


def _check_size(declared: int, most: int, what: str) -> None:
    if declared > most:
        raise Oversized(
            f"the peer declares {declared} {what}, this one takes at most {most}: raise its Limits to take more"
        )
