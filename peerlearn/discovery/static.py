"""Peers whose addresses one was told."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from peerlearn.discovery.base import Announcement, Hint, Listener
from peerlearn.types import Address

SOURCE = "static"


class Static:
    """Each address is one hint, for as long as the block lasts; nobody hears of us by it."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = tuple(addresses)

    @asynccontextmanager
    async def announcing(self, me: Announcement, listener: Listener) -> AsyncIterator[None]:
        for address in self._addresses:
            listener.hinted(Hint(addresses=(address,), source=SOURCE, key=str(address)))
        yield
