"""What the orchestrator needs to know of the others: who is here, and that something changed."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from peerlearn.directory import Contact
from peerlearn.types import PeerId


class Company(Protocol):
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


class Pulse:
    """Wakes everybody who waits, once. No wake-up is lost between a check and a wait without an await between."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def beat(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        await self._event.wait()
