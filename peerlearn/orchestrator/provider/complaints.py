"""What others say is wrong with this peer's knowledge: text from outside, cut, cleaned, let through now and then."""

from collections.abc import Callable

from peerlearn.events import Complaint, Record
from peerlearn.types import Card, PeerId

CHARS = 200
"""Of a complaint that are believed to have been said."""

EVERY = 10.0
"""Seconds between two complaints of one peer that are listened to."""

_PEERS = 256
"""Whose last complaint is remembered; the oldest go."""


def printable(text: str) -> str:
    """One line of at most CHARS characters, without anything that a terminal would act upon."""
    return "".join(char if char.isprintable() else " " for char in text[:CHARS]).strip()


class Complaints:
    """At the provider. Changes nothing but what its owner gets to see."""

    def __init__(self, record: Record, now: Callable[[], float]) -> None:
        self._record = record
        self._now = now
        self._heard: dict[PeerId, tuple[float, Complaint]] = {}

    @property
    def latest(self) -> tuple[Complaint, ...]:
        """Of each peer the last one, oldest first."""
        return tuple(complaint for _, complaint in self._heard.values())

    def heard(self, consumer: Card, said: str) -> None:
        why = printable(said)
        before = self._heard.get(consumer.id)
        if not why or (before is not None and self._now() - before[0] < EVERY):
            return
        complaint = Complaint(by=consumer.name, why=why)
        self._heard.pop(consumer.id, None)
        self._heard[consumer.id] = self._now(), complaint
        while len(self._heard) > _PEERS:
            del self._heard[next(iter(self._heard))]
        self._record(complaint)
