"""What of an answer need not travel because the consumer holds it: told apart by content, tensor by tensor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from peerlearn.errors import Changed, Corrupt
from peerlearn.knowledge import Sparse
from peerlearn.wire.manifest import DIGEST_BYTES, is_held
from peerlearn.wire.reuse.deltas import Bases, most_changed, put
from peerlearn.wire.reuse.digests import Digests, digest, on_cpu
from peerlearn.wire.tensors import DTYPES, Body, all_from_wire, all_to_wire, dtype_name, from_wire, to_wire
from peerlearn.wire.v1 import fabric_pb2 as pb

Held = Mapping[bytes, Tensor | Sparse]
"""Tensors that a consumer holds, by digest."""

Line = tuple[pb.TensorHeader, tuple[memoryview, ...]]
"""A tensor's line of the manifest, and its bytes."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a query says of what its consumer holds."""

    held: frozenset[bytes]
    top: float = 0.0
    """See `casts.top_share`."""


def terms_of(query: pb.Query) -> Terms | None:
    """Of a query that has been checked; None when the answer's tensors need no names."""
    if not query.HasField("held"):
        return None
    names = query.held
    held = frozenset(names[at : at + DIGEST_BYTES] for at in range(0, len(names), DIGEST_BYTES))
    return Terms(held, query.top)


class Reuse:
    """The provider's side, one for all consumers. One thread at a time."""

    def __init__(self, most: int) -> None:
        """`most`: bytes kept of what consumers hold, for those that ask for top-k deltas."""
        self._digests = Digests()
        self._bases = Bases(most)

    def all_to_wire(self, terms: Terms, named: Mapping[str, Tensor | Sparse], cast: str = "") -> list[Line]:
        """As `tensors.all_to_wire`, with a digest for each tensor, and without what the consumer holds. Raises
        KnowledgeError."""
        exact = {name: tensor for name, tensor in named.items() if not cast or not _floating(tensor)}
        known = dict(zip(exact, self._digests.of_all(list(exact.values())), strict=True))
        held = {name: _held(name, exact[name], known[name]) for name in exact if known[name] in terms.held}
        deltas = {
            name: self._changes(terms, name, tensor, known[name])
            for name, tensor in exact.items()
            if name not in held and terms.top and isinstance(tensor, Tensor) and tensor.is_floating_point()
        }
        rest = {name: tensor for name, tensor in named.items() if name not in held and name not in deltas}
        whole = dict(zip(rest, all_to_wire(rest, cast), strict=True))
        for name, (line, parts) in whole.items():
            line.digest = digest(from_wire(line, Body(parts))) if line.cast_from else known[name]
            if line.cast_from and line.digest in terms.held:
                held[name] = _held(name, named[name], line.digest)
        return [(held[name], ()) if name in held else deltas.get(name) or whole[name] for name in named]

    def _changes(self, terms: Terms, name: str, tensor: Tensor, known: bytes) -> Line:
        base = self._bases.find(name, terms.held, tensor)
        whole = on_cpu(tensor)
        values = most_changed(whole, base[1], terms.top) if base is not None else None
        if base is None or values is None:
            line, parts = to_wire(name, tensor)
            line.digest = known
            self._bases.keep(name, line.digest, whole)
            return line, parts
        result = put(values, base[1])
        line, parts = to_wire(name, values)
        line.base, line.digest = base[0], digest(result)
        self._bases.keep(name, line.digest, result)
        return line, parts


def take_all(lines: Sequence[pb.TensorHeader], body: Body, held: Held) -> dict[str, Tensor | Sparse]:
    """The consumer's side: all tensors of a body by name, with what is held filled in. Raises as `take`."""
    if not any([line.base for line in lines]):
        return all_from_wire(lines, body)
    return {line.name: take(line, body, held) for line in lines}


def take(line: pb.TensorHeader, body: Body, held: Held) -> Tensor | Sparse:
    """The consumer's side: the next tensor of a body, with what is held filled in. Raises Corrupt; and Changed when
    what is held is not what the provider says."""
    if not line.base:
        return from_wire(line, body)
    base = held.get(line.base)
    if base is None:
        raise Corrupt(f"tensor {line.name!r} builds on one that this peer does not hold")
    shape, dtype = tuple(line.shape), DTYPES[line.dtype]
    values = base.values if isinstance(base, Sparse) else base
    if tuple(base.shape) != shape or values.dtype != dtype:
        raise Corrupt(f"tensor {line.name!r} builds on one of another shape or dtype")
    if is_held(line):
        whole = base
    else:
        overlay = from_wire(line, body)
        if isinstance(base, Sparse) or not isinstance(overlay, Sparse):
            raise Corrupt(f"tensor {line.name!r} builds on a sparse one, which cannot be")
        whole = put(overlay, base)
    if digest(whole) != line.digest:
        raise Changed(f"tensor {line.name!r} builds on one that is held here, and does not come to what it should")
    return whole


def _held(name: str, tensor: Tensor | Sparse, known: bytes) -> pb.TensorHeader:
    dtype = dtype_name(name, tensor.values if isinstance(tensor, Sparse) else tensor)
    shape, nothing = tuple(tensor.shape), pb.TensorHeader.INDEX
    return pb.TensorHeader(name=name, dtype=dtype, shape=shape, encoding=nothing, digest=known, base=known)


def _floating(tensor: Tensor | Sparse) -> bool:
    return (tensor.values if isinstance(tensor, Sparse) else tensor).is_floating_point()
