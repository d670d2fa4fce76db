"""Status of a peer, for its owner only: facts that its card does not show. Values."""

from collections.abc import Mapping
from dataclasses import dataclass

from peerlearn.events import Complaint
from peerlearn.types import Address, PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedPeer:
    """A provider whose knowledge is not used now, and the reason in a sentence."""

    id: PeerId
    name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """State of one peer. Quarantines and complaints are private between the two peers concerned: no card shows them,
    and no third peer can ask for them."""

    name: str
    id: PeerId
    address: Address
    strategy: str
    round: int
    """Rounds completed."""
    version: int
    """Version of the latest snapshot."""
    others: Mapping[str, str]
    """Status of each peer that is here, alive or suspect, by its name. Peers of the same name share one entry."""
    learns_from: tuple[str, ...]
    """Providers whose knowledge is in use, by name; by the start of the id if the name is not known."""
    quarantined: tuple[QuarantinedPeer, ...]
    """Providers whose knowledge this peer does not use: it did harm, or was malformed."""
    complaints: tuple[Complaint, ...]
    """The latest complaint of each peer that has quarantined this one since it started."""
    problems: tuple[str, ...]
    """One sentence per address given by the user that has not led to a peer."""
