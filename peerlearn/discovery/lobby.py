"""Lobby: discovery between peers of one process. Each peer in it is hinted to all others in it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from peerlearn.discovery.base import Announcement, Hint, Listener
from peerlearn.types import Address

SOURCE = "lobby"


class Lobby:
    """The meeting place, shared by its peers. Each peer gets a discovery of its own from `door`."""

    def __init__(self) -> None:
        self._guests: list[_Guest] = []

    def door(self, address: Address) -> "LobbyDoor":
        """The discovery for the peer that listens at `address`."""
        return LobbyDoor(self, address)


class LobbyDoor:
    """Discovery for the one peer that listens at `address`."""

    def __init__(self, lobby: Lobby, address: Address) -> None:
        self._lobby = lobby
        self._address = address

    @asynccontextmanager
    async def announcing(self, me: Announcement, listener: Listener) -> AsyncIterator[None]:
        """A block in which this peer is in the lobby: it and all others of its group are hinted to each other."""
        guest = _Guest(me, self._address, listener)
        guests = self._lobby._guests
        for other in [other for other in guests if other.me.group_hash == me.group_hash]:
            guest.hear_of(other)
            other.hear_of(guest)
        guests.append(guest)
        try:
            yield
        finally:
            guests.remove(guest)
            for other in guests:
                other.listener.withdrawn(SOURCE, guest.key)


class _Guest:
    def __init__(self, me: Announcement, address: Address, listener: Listener) -> None:
        self.me = me
        self.address = address
        self.listener = listener
        self.key = f"{me.id_prefix}@{address}"

    def hear_of(self, other: "_Guest") -> None:
        if other.me.port and other.key != self.key:
            self.listener.hinted(
                Hint(addresses=(other.address,), source=SOURCE, key=other.key, id_prefix=other.me.id_prefix)
            )
