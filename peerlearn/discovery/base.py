"""How peers come to hear of one another. A hint is never a peer, and never a sign of life."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from peerlearn.types import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """Somebody may be at one of these addresses.

    `id_prefix` is the start of the id that is expected there ("" when unknown); `source` is for people ("mdns",
    "static", "exchange"); `key` names the hint within its source, so that a later one replaces it.
    """

    addresses: tuple[Address, ...]
    source: str
    key: str
    id_prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What may be shown to everybody on the LAN: no more than a short id, a hashed group tag, port and version.

    Port 0: somebody who only looks; nothing is announced, and hints are heard all the same.
    """

    id_prefix: str
    group_hash: str
    port: int
    protocol_major: int


class Listener(Protocol):
    """Called on the event loop; must not block."""

    def hinted(self, hint: Hint) -> None: ...

    def withdrawn(self, source: str, key: str) -> None:
        """The source no longer vouches for this hint. Says nothing about life or death."""
        ...


class Discovery(Protocol):
    def announcing(self, me: Announcement, listener: Listener) -> AbstractAsyncContextManager[None]:
        """Inside the block: others can find me, and hints go to the listener. Own announcements are not reported."""
        ...
