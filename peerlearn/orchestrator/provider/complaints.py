"""Complaints of consumers about this peer's knowledge: text from outside, cut, cleaned, and taken now and then."""

from collections.abc import Callable

from peerlearn.bounded import Bounded
from peerlearn.events import Complaint, Record
from peerlearn.text import one_line
from peerlearn.types import Card, PeerId

CHARS = 200
"""Kept of a complaint: a sentence."""

EVERY = 10.0
"""Seconds between two complaints that are taken from one peer, so that a flood fills no log."""

_PEERS = 256
"""Peers whose last complaint is kept; a full directory holds as many. The oldest go first."""


class Complaints:
    """The complaints that reached this provider. They change nothing but what its owner gets to see."""

    def __init__(self, record: Record, now: Callable[[], float]) -> None:
        self._record = record
        self._now = now
        self._taken: Bounded[PeerId, tuple[float, Complaint]] = Bounded(_PEERS)

    @property
    def latest(self) -> tuple[Complaint, ...]:
        """The last complaint of each peer, oldest first."""
        return tuple([complaint for _, complaint in self._taken.values()])

    def heard(self, consumer: Card, said: str) -> None:
        """A consumer says why it does not use our knowledge."""
        why = one_line(said, CHARS)
        before = self._taken.get(consumer.id)
        if not why or (before is not None and self._now() - before[0] < EVERY):
            return
        complaint = Complaint(by=consumer.name, why=why)
        self._taken[consumer.id] = self._now(), complaint
        self._record(complaint)
