"""Static: discovery of peers at addresses that the user gave."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from peerlearn.discovery.base import Announcement, Hint, Listener
from peerlearn.types import Address

SOURCE = "static"


class Static:
    """Gives one hint per address when the block is entered. Announces nothing."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = tuple(addresses)

    @asynccontextmanager
    async def announcing(self, me: Announcement, listener: Listener) -> AsyncIterator[None]:
        """A block at whose start all addresses are hinted."""
        for address in self._addresses:
            listener.hinted(Hint(addresses=(address,), source=SOURCE, key=str(address)))
        yield
