"""What this peer still holds of its providers' answers, so that what has not changed need not come again."""

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
"""Exchanges in which nothing is held after two answers have had nothing in common: a model that is trained as a whole
changes as a whole, and hashing it would be for nothing."""

_WORTH = 0.05
"""Share of an answer that must have been held: on the fastest links, hashing costs about as much as it saves."""

_MOST_QUERIES = 1024
_AS_TEXT = json.JSONEncoder(sort_keys=True, default=str)
_Key = tuple[PeerId, str, str, bytes]


@dataclass(slots=True, eq=False)
class _Entry:
    tensors: dict[bytes, Tensor | Sparse] = field(default_factory=dict)
    nbytes: int = 0
    """Memory that the tensors keep alive: they are views of whole answers."""
    rest: int = 0


class HeldTensors:
    """The last answer to each query of each provider, at most `most` bytes together; the least recently used goes
    first. Tensors are shared with whoever got the answer, never copied but to let go of an older answer's memory. Read
    and written on the event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._distrusted: set[PeerId] = set()

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in self._entries.values())

    def offer(self, provider: PeerId, query: Query) -> Held | None:
        """What to tell a provider that is asked this; None: nothing, and its tensors need no names."""
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
        """This answer has come: what it brings takes the place of what was held."""
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
        if entry.nbytes > 2 * needed:  # small pieces of old answers keep all of these in memory
            entry.tensors = {digest: _copied(tensor) for digest, tensor in entry.tensors.items()}
            entry.nbytes = needed
        self._forget_old()

    def distrust(self, provider: PeerId) -> None:
        """What was held did not come to what the provider said: from now on it is asked for all of everything."""
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
