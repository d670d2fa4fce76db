"""One record per followed peer: by which calls we hear of it, and what is being done about it."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from peerlearn.directory import Contact
from peerlearn.types import PeerId


@dataclass(slots=True, eq=False)
class Watch:
    """How we hear of a contact now: by a call of ours, by which we may tell too, or by a call that the contact made."""

    contact: Contact
    leans: bool
    """The contact made the call."""
    tells: bool
    """By our call we tell of ourselves too."""
    silence: asyncio.Timeout | None = None
    """Ends the watch when it is rescheduled."""
    doubted: bool = False
    """A task is trying whether the contact can be called."""
    needless: bool = False
    """The contact tells us by a call of its own, which stays."""

    def is_over(self, contact: Contact) -> bool:
        """Whether the contact, as it is now, is in another session or no longer where it was called."""
        if contact.session != self.contact.session:
            return True
        return not contact.reached and (self.leans or contact.address != self.contact.address)


@dataclass(slots=True, eq=False)
class Telling:
    """What a peer that watches us tells by the same call."""

    session: str
    over: asyncio.Event = field(default_factory=asyncio.Event)
    why: str = ""
    """Why the call ended; empty when the peer ended it."""


@dataclass(slots=True, eq=False)
class Followed:
    """What we keep of one peer besides its contact in the directory."""

    active: bool = False
    """A task follows it."""
    watch: Watch | None = None
    telling: Telling | None = None
    renewing: bool = False
    """Its watch was ended because we show another certificate now."""
    awaited: asyncio.Event | None = None
    """Set when the peer begins to watch us, as long as a task waits for that."""

    @property
    def idle(self) -> bool:
        """Whether nothing would be lost with this record."""
        return not self.active and self.watch is None and self.telling is None

    def told_in(self, session: str) -> Telling | None:
        """What the peer tells in this session; None when it does not tell."""
        return self.telling if self.telling is not None and self.telling.session == session else None

    def end_watch(self, moment: float) -> None:
        """End the watch, if there is one, at this moment of the loop's clock."""
        watch, self.watch = self.watch, None
        if watch is not None and watch.silence is not None:
            watch.silence.reschedule(moment)


class FollowedPeers:
    """The records, by peer id. One is made when something is to be kept, and goes when it is idle."""

    def __init__(self) -> None:
        self._records: dict[PeerId, Followed] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Followed]:
        """All records, as they are now: they may come and go meanwhile."""
        return iter(tuple(self._records.values()))

    def find(self, peer: PeerId) -> Followed | None:
        """The record of this peer, if there is one."""
        return self._records.get(peer)

    def of(self, peer: PeerId) -> Followed:
        """The record of this peer, made when there is none."""
        return self._records.setdefault(peer, Followed())

    def release(self, peer: PeerId) -> None:
        """Drop the record of this peer if it is idle."""
        record = self._records.get(peer)
        if record is not None and record.idle:
            del self._records[peer]
