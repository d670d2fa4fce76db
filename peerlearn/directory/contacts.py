"""Contact and Change: a peer as the directory knows it, and the news of a change. Values."""

from dataclasses import dataclass
from enum import StrEnum

from peerlearn.types import Address, Card, PeerId

START = 12
"""Hex digits of an id by which peers are looked up: as many as an mDNS announcement shows to everybody on the LAN."""


class Liveness(StrEnum):
    """State of a contact."""

    ALIVE = "alive"
    """Confirmed by its signed card, with a sign of life within the last `suspect_after` seconds."""
    SUSPECT = "suspect"
    """Silent for longer, or its watch broke. It is not asked for knowledge, and membership tries to reach it."""
    GONE = "gone"
    """It said goodbye, or was silent for `gone_after` seconds. It is remembered only to be recognised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """A peer that has proved who it is."""

    card: Card
    address: Address
    """The address at which the peer answered; while `reached` is False, the one that it claims."""
    status: Liveness
    last_beat: float
    """Time of the last sign of life, in seconds on the directory's clock, plus `excused`."""
    since: float
    """Time at which this session of the peer was confirmed, on the same clock."""
    version: int
    """Version of its latest snapshot."""
    reached: bool
    """True if this side has called the peer successfully. A peer behind a firewall can call without being reachable."""
    excused: float = 0.0
    """Seconds of silence that do not count, because this program itself was held up."""

    @property
    def id(self) -> PeerId:
        """The fingerprint of its signing key, 32 hex digits."""
        return self.card.id

    @property
    def name(self) -> str:
        """The name on its card."""
        return self.card.name

    @property
    def session(self) -> str:
        """The session of its process; each start has another one."""
        return self.card.session

    @property
    def alive(self) -> bool:
        """True if its status is ALIVE."""
        return self.status is Liveness.ALIVE

    def taken_back(self, newer: Card) -> bool:
        """True if the current card names the peer's address and this newer card does not."""
        return self.address in self.card.addresses and self.address not in newer.addresses

    @property
    def here(self) -> bool:
        """True if the peer is alive or suspect."""
        return self.status is not Liveness.GONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of one contact, as listeners get it.

    `what` is one of: confirmed, back, suspect, left (it said goodbye), gone (it was silent), which are about life; and
    reached, version, card, which are about a peer that lives on.
    """

    what: str
    contact: Contact
    why: str = ""

    @property
    def of_life(self) -> bool:
        """True if the peer came, went, or fell silent."""
        return self.what in ("confirmed", "back", "suspect", "left", "gone")
