"""DirectoryView: the little that the orchestrator needs to know of other peers. Implemented by membership."""

from collections.abc import Sequence
from typing import Protocol

from peerlearn.directory import Contact
from peerlearn.types import PeerId


class DirectoryView(Protocol):
    """Read access to the directory of peers, on the event loop."""

    def alive(self) -> Sequence[Contact]:
        """Confirmed peers that are alive, in id order, without this peer itself."""
        ...

    def get(self, peer: PeerId) -> Contact | None:
        """A confirmed peer that is alive or suspect; None if it is unknown or gone."""
        ...

    def left(self, peer: PeerId) -> bool:
        """True if this peer said goodbye and is not back."""
        ...

    def doubt(self, peer: PeerId) -> None:
        """Report that a call to this peer failed; membership then checks whether the peer can still be reached."""
        ...

    def complain(self, peer: PeerId, why: str) -> None:
        """Tell this provider, if it can be reached, why its knowledge is not used here: one line for its owner."""
        ...

    async def news(self) -> None:
        """Wait for the next change: a peer came, left or fell silent, or published a version."""
        ...
