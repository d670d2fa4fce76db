"""HeldTensors: tensors of earlier answers, kept so that a provider need not send unchanged ones again."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

import xxhash
from torch import Tensor

from peerlearn.knowledge import Knowledge, Outputs, Query, Sparse
from peerlearn.types import PeerId
from peerlearn.wire.codec import IDS
from peerlearn.wire.reuse.negotiation import Held
from peerlearn.wire.v1 import fabric_pb2 as pb

REST = 8
"""Exchanges without holding anything after two answers had (almost) no tensor in common: a model that is trained as a
whole changes as a whole, and hashing it would save nothing. Smaller: more hashing in vain. Larger: layers that have
been frozen meanwhile are noticed later."""

_WORTH = 0.05
"""Least share of an answer's bytes that must have been held for hashing to be worth it: on the fastest links, hashing
costs about as much time as it saves."""

_MOST_QUERIES = 1024
"""Upper bound on remembered queries: a consumer that varies its queries must not fill the memory."""
_AS_TEXT = json.JSONEncoder(sort_keys=True, default=str)
_Key = tuple[PeerId, str, str, bytes]


@dataclass(slots=True, eq=False)
class _Entry:
    tensors: dict[bytes, Tensor | Sparse] = field(default_factory=dict)
    nbytes: int = 0
    """Bytes of memory that the tensors keep alive. They are views, so each keeps its whole answer in memory."""
    rest: int = 0
    """Exchanges for which nothing is offered or held."""


class HeldTensors:
    """The last answer to each query of each provider, at most `most` bytes in all; the least recently used is dropped
    first. Tensors are shared with the strategy that got the answer, and copied only to free an older answer's memory.
    Lives on the event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._distrusted: set[PeerId] = set()

    @property
    def nbytes(self) -> int:
        """Bytes of memory that all held tensors keep alive."""
        return sum(entry.nbytes for entry in self._entries.values())

    def offer(self, provider: PeerId, query: Query) -> Held | None:
        """The tensors held for this query, by digest, to be named in the question. None: the provider is to send all,
        and need not hash its tensors. Empty: it is to send all, with digests."""
        if query.want == "nothing" or provider in self._distrusted:
            return None
        entry = self._entry(provider, query)
        if entry.rest:
            entry.rest -= 1
            return None
        return entry.tensors

    def keep(
        self, provider: PeerId, query: Query, offered: Held | None, knowledge: Knowledge, manifest: pb.Header
    ) -> None:
        """Hold this answer in place of the last one. `offered`: what `offer` gave for the question."""
        if offered is None:
            return
        entry = self._entry(provider, query)
        by_name = _tensors(knowledge)
        lines = [line for line in manifest.tensors if line.digest]
        needed = sum(by_name[line.name].nbytes for line in lines)
        filled = sum(by_name[line.name].nbytes for line in lines if line.base in offered)
        if not lines or (offered and filled < _WORTH * needed):
            self._entries[_key(provider, query)] = _Entry(rest=REST)
            return
        entry.tensors = {line.digest: by_name[line.name] for line in lines}
        entry.nbytes = max(needed, entry.nbytes + manifest.body_bytes)
        if entry.nbytes > 2 * needed:  # small views of old answers keep whole answers in memory: copying frees them
            entry.tensors = {digest: _copied(tensor) for digest, tensor in entry.tensors.items()}
            entry.nbytes = needed
        self._forget_old()

    def distrust(self, provider: PeerId) -> None:
        """Hold and offer nothing for this provider any more: its answer, completed with held tensors, did not match the
        checksum that it gave."""
        self._distrusted.add(provider)
        for key in [key for key in self._entries if key[0] == provider]:
            del self._entries[key]

    def _entry(self, provider: PeerId, query: Query) -> _Entry:
        key = _key(provider, query)
        entry = self._entries.setdefault(key, _Entry())
        self._entries.move_to_end(key)
        return entry

    def _forget_old(self) -> None:
        while len(self._entries) > _MOST_QUERIES:
            self._entries.popitem(last=False)
        over = self.nbytes - self._most
        for key, entry in list(self._entries.items()):
            if over > 0 and entry.nbytes:
                over -= entry.nbytes
                self._entries[key] = _Entry(rest=REST)


def _key(provider: PeerId, query: Query) -> _Key:
    select = xxhash.xxh3_128_digest(_AS_TEXT.encode(query.select).encode()) if query.select else b""
    return provider, query.want, query.cast, select


def _tensors(knowledge: Knowledge) -> Mapping[str, Tensor | Sparse]:
    return {IDS: knowledge.ids, **knowledge.tensors} if isinstance(knowledge, Outputs) else knowledge.tensors


def _copied(tensor: Tensor | Sparse) -> Tensor | Sparse:
    return Sparse(tensor.shape, tensor.indices, tensor.values.clone()) if isinstance(tensor, Sparse) else tensor.clone()
