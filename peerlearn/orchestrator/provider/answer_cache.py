"""AnswerCache: answers made once per snapshot and shared by all consumers that ask the same."""

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from peerlearn.knowledge import Answer, Outputs, Params
from peerlearn.learning.snapshot import Snapshot
from peerlearn.wire.frames import Message
from peerlearn.wire.v1 import fabric_pb2 as pb

_Key = tuple[str, bytes]


@dataclass(slots=True, eq=False)
class CachedAnswer:
    """One answer, shared by all consumers that ask the same."""

    answer: Answer
    message: Message | None = None
    """Encoded form for consumers that ask without a cast and hold nothing; None until the first of them asks."""


class AnswerCache:
    """The latest answers from each snapshot that is still in use, with at most `most` bytes of tensors per snapshot.
    Filled on the answers' thread; read on the event loop too."""

    MOST = 8
    """Answers kept per snapshot. Consumers that learn in step ask the same few questions; an answer to a question that
    no other consumer asks is soon pushed out by newer ones."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._given: WeakKeyDictionary[Snapshot, dict[_Key, CachedAnswer]] = WeakKeyDictionary()

    def get(self, snapshot: Snapshot, query: pb.Query) -> CachedAnswer | None:
        """The cached answer from this snapshot to a query with the same `want` and `select`; None if there is none."""
        kept = self._given.get(snapshot)
        return kept.get(_key(query)) if kept is not None else None

    def once(self, snapshot: Snapshot, query: pb.Query, make: Callable[[], Answer]) -> CachedAnswer:
        """The cached answer, or a new one from `make`, which is cached if it is small enough."""
        if (given := self.get(snapshot, query)) is not None:
            return given
        given = CachedAnswer(make())
        if isinstance(given.answer, Params | Outputs) and _nbytes(given.answer) <= self._most:
            kept = self._given.setdefault(snapshot, {})
            kept[_key(query)] = given
            while len(kept) > self.MOST or sum(_nbytes(each.answer) for each in kept.values()) > self._most:
                del kept[next(iter(kept))]
        return given


def _key(query: pb.Query) -> _Key:
    return query.want, query.select


def _nbytes(answer: Answer) -> int:
    return sum([tensor.nbytes for tensor in answer.tensors.values()]) if isinstance(answer, Params | Outputs) else 0
