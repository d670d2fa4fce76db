"""Answers that all who ask alike are given: made once for each snapshot, however many ask."""

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
    """`message`: as it travels to those who want all of it as it is, once there was one who did."""

    answer: Answer
    message: Message | None = None


class AnswerCache:
    """The last answers from each snapshot that is still there, of at most `most` bytes of tensors. Filled on the
    answers' thread, looked into on the event loop too."""

    MOST = 8
    """Kept for one snapshot. Those who learn in step ask alike; others soon ask something else."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._given: WeakKeyDictionary[Snapshot, dict[_Key, CachedAnswer]] = WeakKeyDictionary()

    def get(self, snapshot: Snapshot, query: pb.Query) -> CachedAnswer | None:
        kept = self._given.get(snapshot)
        return kept.get(_key(query)) if kept is not None else None

    def once(self, snapshot: Snapshot, query: pb.Query, make: Callable[[], Answer]) -> CachedAnswer:
        """What was given to one who asked alike, or what `make` gives."""
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
    return sum(tensor.nbytes for tensor in answer.tensors.values()) if isinstance(answer, Params | Outputs) else 0
