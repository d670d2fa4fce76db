"""What the directory holds of a peer, and what it says when that changes. Values."""

from dataclasses import dataclass
from enum import StrEnum

from peerlearn.types import Address, Card, PeerId

START = 12
"""Characters of an id by which peers are looked up: as many as everybody on the LAN may see."""


class Liveness(StrEnum):
    ALIVE = "alive"
    """Confirmed by its signed card, and heard of within `suspect_after`."""
    SUSPECT = "suspect"
    """Silent, or its watch broke. Not asked for knowledge; still looked for."""
    GONE = "gone"
    """It said goodbye, or was silent for `gone_after`. Remembered only to be recognised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """A peer that has proved who it is."""

    card: Card
    address: Address
    """Where it answered; where it said it could be found, as long as `reached` is false."""
    status: Liveness
    last_beat: float
    """Of the last sign of life, in seconds on the clock that the directory is given; later than it was when we
    ourselves slept, by `excused` seconds."""
    since: float
    """When this session of it was confirmed."""
    version: int
    """Of its latest snapshot."""
    reached: bool
    """Whether we have got through to it. A peer behind a firewall reaches us and cannot be reached."""
    excused: float = 0.0

    @property
    def id(self) -> PeerId:
        return self.card.id

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def session(self) -> str:
        return self.card.session

    @property
    def alive(self) -> bool:
        return self.status is Liveness.ALIVE

    def taken_back(self, newer: Card) -> bool:
        """Whether this newer card no longer names the address where it was found, which the one before did."""
        return self.address in self.card.addresses and self.address not in newer.addresses

    @property
    def here(self) -> bool:
        """Alive or suspect."""
        return self.status is not Liveness.GONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something that the directory now holds otherwise than before.

    `what`: confirmed, back, suspect, left (goodbye) and gone (silence) are about life; reached, version and card
    are about a peer that lives on.
    """

    what: str
    contact: Contact
    why: str = ""

    @property
    def of_life(self) -> bool:
        return self.what in ("confirmed", "back", "suspect", "left", "gone")
