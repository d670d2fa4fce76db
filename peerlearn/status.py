"""How a peer stands, for its owner: what its card does not say. Values."""

from collections.abc import Mapping
from dataclasses import dataclass

from peerlearn.events import Complaint
from peerlearn.types import Address, PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedPeer:
    """Somebody whose knowledge is not used now, and why."""

    id: PeerId
    name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Accusations are for the accused and for whoever made them, never for the group: no card has them, no other peer
    can ask for them."""

    name: str
    id: PeerId
    address: Address
    strategy: str
    round: int
    """Rounds completed."""
    version: int
    """Of the latest snapshot."""
    others: Mapping[str, str]
    """Names of those who are here: alive or suspect. Of several of one name the last."""
    learns_from: tuple[str, ...]
    """Names, or the start of an id, of those whose knowledge is in use."""
    quarantined: tuple[QuarantinedPeer, ...]
    """Whom this peer does not learn from: it did harm, or made no sense."""
    complaints: tuple[Complaint, ...]
    """What others say against this peer's knowledge: the last word of each who has put it aside, since it started."""
    problems: tuple[str, ...]
    """What keeps addresses that were named from becoming peers."""
