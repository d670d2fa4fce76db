"""What the orchestrator needs to know of the others: who is here, and that something changed."""

from collections.abc import Sequence
from typing import Protocol

from peerlearn.directory import Contact
from peerlearn.types import PeerId


class DirectoryView(Protocol):
    def alive(self) -> Sequence[Contact]:
        """Confirmed and alive, in id order; never oneself."""
        ...

    def get(self, peer: PeerId) -> Contact | None:
        """Confirmed, alive or suspect; None when unknown or gone."""
        ...

    def left(self, peer: PeerId) -> bool:
        """Whether it said goodbye, and is not back."""
        ...

    def doubt(self, peer: PeerId) -> None:
        """It could not be called: try whether it still can."""
        ...

    async def news(self) -> None:
        """Returns after the next change: somebody came or went, or published a version."""
        ...
