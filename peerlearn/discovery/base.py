"""Contracts of a discovery. It gives hints; a hint proves neither that a peer is there nor that it lives."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from peerlearn.types import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """Addresses, one of which may lead to a peer."""

    addresses: tuple[Address, ...]
    source: str
    """Name of the discovery, for messages: "mdns", "static", "exchange"."""
    key: str
    """Name of the hint within its source: a later hint with the same key replaces it."""
    id_prefix: str = ""
    """Start of the id of the expected peer; empty if it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """Facts of a peer that every machine on the LAN can read; there are no others."""

    id_prefix: str
    """The first 12 hex digits of the id."""
    group_hash: str
    """Hash of the group and its tag."""
    port: int
    """TCP port; 0 for an observer, which gets hints without being announced."""
    protocol_major: int
    """Major version of the wire protocol."""


class Listener(Protocol):
    """Takes the hints of a discovery. Its methods are called on the event loop, and must not block."""

    def hinted(self, hint: Hint) -> None:
        """Take a hint. It replaces an earlier one of the same source and key."""
        ...

    def withdrawn(self, source: str, key: str) -> None:
        """Drop a hint that its source no longer gives. The peer may be alive all the same."""
        ...


class Discovery(Protocol):
    """One way for peers to find each other."""

    def announcing(self, me: Announcement, listener: Listener) -> AbstractAsyncContextManager[None]:
        """A block in which this peer is announced to others and hints about others go to `listener`. The peer's own
        announcement is not reported. Entering raises NetworkError if the discovery cannot work."""
        ...
