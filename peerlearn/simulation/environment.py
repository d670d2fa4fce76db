"""The environment of a simulated peer: discovery that flaps, slow computation, a disk, and a transport under watch."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import Context, copy_context
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from peerlearn.config import Timing
from peerlearn.discovery.base import Announcement, Hint, Listener
from peerlearn.learning import state
from peerlearn.learning.learner import Learner
from peerlearn.orchestrator.checkpointing.store import PREVIOUS, STATE, Store
from peerlearn.strategies.base import Strategy
from peerlearn.transport.base import Service, Traffic
from peerlearn.transport.memory.transport import MemoryTransport
from peerlearn.types import Address
from peerlearn.wire.frames import Message
from peerlearn.wire.partial_message import PartialMessage
from peerlearn.wire.v1 import fabric_pb2 as pb

P = ParamSpec("P")
T = TypeVar("T")

Tree = Mapping[str, Any]

SOURCE = "lan"
"""Source of the hints that simulated discovery gives."""
_HEARD = (0.05, 1.0)
"""Range of seconds until an announcement is heard, as with mDNS on a LAN."""
_KEPT = 120.0
"""Seconds until the announcement of a vanished peer is forgotten, like the records of mDNS."""


class Lan:
    """Announcements as mDNS makes them: they come late, are lost between the halves of a split network, and outlive
    their peer for a while. `apart`: true if two addresses cannot hear each other now."""

    def __init__(self, rng: random.Random, apart: Callable[[Address, Address], bool]) -> None:
        self._rng = rng
        self._apart = apart
        self._guests: dict[Address, _LanGuest] = {}

    def door(self, address: Address) -> "LanDoor":
        """The discovery of a peer at this address."""
        return LanDoor(self, address)

    def vanished(self, address: Address) -> None:
        """The peer's machine is dead. Its old announcements are believed for a while."""
        guest = self._guests.pop(address, None)
        if guest is not None:
            asyncio.get_running_loop().call_later(_KEPT, self._withdraw, guest, tuple(self._guests))

    def flap(self, address: Address, seconds: float) -> None:
        """Make all peers forget this one, and hear of it again after `seconds`."""
        guest = self._guests.get(address)
        if guest is not None:
            self._withdraw(guest, tuple(self._guests))
            asyncio.get_running_loop().call_later(seconds, self._announce, guest)

    def announce_all(self) -> None:
        """Announce all peers again, when the halves of the network are joined."""
        for guest in tuple(self._guests.values()):
            self._announce(guest)

    def _enter(self, guest: "_LanGuest") -> None:
        self._guests[guest.address] = guest
        self._announce(guest)

    def _leave(self, guest: "_LanGuest") -> None:
        if self._guests.pop(guest.address, None) is not None:
            self._withdraw(guest, tuple(self._guests))

    def _announce(self, guest: "_LanGuest") -> None:
        for other in tuple(self._guests.values()):
            if other is not guest:
                self._say(guest, other)
                self._say(other, guest)

    def _say(self, about: "_LanGuest", to: "_LanGuest") -> None:
        def hear() -> None:
            both = self._guests.get(to.address) is to and self._guests.get(about.address) is about
            if both and not self._apart(about.address, to.address):
                hint = Hint(
                    addresses=(about.address,), source=SOURCE, key=about.key, id_prefix=about.announcement.id_prefix
                )
                to.listener.hinted(hint)

        late = self._rng.uniform(*_HEARD)
        asyncio.get_running_loop().call_later(late, hear, context=to.context)

    def _withdraw(self, guest: "_LanGuest", listeners: tuple[Address, ...]) -> None:
        for address in listeners:
            other = self._guests.get(address)
            if other is not None and other is not guest:
                asyncio.get_running_loop().call_soon(other.listener.withdrawn, SOURCE, guest.key, context=other.context)


class _LanGuest:
    """A peer that announces itself. `context`: that of its machine, in which its listener is called."""

    def __init__(self, announcement: Announcement, address: Address, listener: Listener, context: Context) -> None:
        self.announcement = announcement
        self.address = address
        self.listener = listener
        self.context = context
        self.key = f"{announcement.id_prefix}@{address}"


class LanDoor:
    """One peer's discovery on a Lan, see `discovery.base.Discovery`."""

    def __init__(self, lan: Lan, address: Address) -> None:
        self._lan = lan
        self._address = address

    @asynccontextmanager
    async def announcing(self, me: Announcement, listener: Listener) -> AsyncIterator[None]:
        guest = _LanGuest(me, self._address, listener, copy_context())
        self._lan._enter(guest)
        try:
            yield
        finally:
            self._lan._leave(guest)


class Unhurried:
    """A Compute without a thread: one call at a time, each after up to `most` virtual seconds. A call that is cancelled
    while it waits does not happen."""

    def __init__(self, rng: random.Random, most: float) -> None:
        self._rng = rng
        self._most = most
        self._turn = asyncio.Lock()

    async def run(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        async with self._turn:
            await asyncio.sleep(self._rng.uniform(0, self._most))
            return func(*args, **kwargs)

    async def close(self) -> None:
        return None


class Disk:
    """The files of one machine, which survive its peers: trees by name, and the last few snapshots, newest last."""

    _COPIES = 3
    """Snapshots kept for `restore`; fault schedules go back by at most two."""

    def __init__(self) -> None:
        self.files: dict[str, Tree] = {}
        self._snapshots: list[Tree] = []

    def write(self, tree: Tree, name: str) -> None:
        if name == STATE:
            if STATE in self.files:
                self.files[PREVIOUS] = self.files[STATE]
            self._snapshots = [*self._snapshots, tree][-self._COPIES :]
        self.files[name] = tree

    def restore(self, older: int) -> None:
        """Go back by `older` snapshots, as when a user restores an old backup."""
        if older and self._snapshots:
            del self._snapshots[max(1, len(self._snapshots) - older) :]
            self.files = {STATE: self._snapshots[-1]}

    def wipe(self) -> None:
        """Remove all files and snapshots."""
        self.files.clear()
        self._snapshots.clear()


class DiskStore(Store):
    """A store on a simulated disk, until its power fails."""

    def __init__(self, disk: Disk, learner: Learner, strategy: Strategy) -> None:
        super().__init__(Path(), learner, strategy)
        self._disk = disk
        self._on = True

    def unplug(self) -> None:
        """Fail the power: from now on nothing reaches the disk."""
        self._on = False

    def open(self) -> None:
        """There is always room."""

    def write(self, tree: Tree, name: str) -> str:
        if self._on:
            self._disk.write(state.tree(tree), name)
        return "memory"

    def read(self, name: str) -> Tree | None:
        kept = self._disk.files.get(name)
        return None if kept is None else state.tree(kept)

    def drop(self, name: str) -> None:
        if self._on:
            self._disk.files.pop(name, None)


Opened = Callable[[str, float], Callable[[], None]]
"""Called when a call begins, with a description and the seconds that it may take; returns a function to call at its
end."""


class Witnessed:
    """A memory transport that reports its calls, so that each can be required to end in time. See
    `transport.base.Transport`."""

    def __init__(self, inner: MemoryTransport, timing: Timing, opened: Opened) -> None:
        self._inner = inner
        self._timing = timing
        self._opened = opened
        self.address = inner.address

    def serving(self, service: Service) -> AbstractAsyncContextManager[Address]:
        return self._inner.serving(service)

    async def introduce(self, to: Address, introduction: pb.Introduction) -> pb.Introduction:
        ended = self._opened(f"introduction to {to}", 2 * self._timing.base)
        try:
            return await self._inner.introduce(to, introduction)
        finally:
            ended()

    async def reach(self, to: Address) -> None:
        await self._inner.reach(to)

    def watch(
        self,
        to: Address,
        request: pb.WatchRequest,
        *,
        notices: AsyncIterator[pb.Notice] | None = None,
        certificates: Collection[bytes] = (),
    ) -> AsyncGenerator[pb.Notice, None]:
        return self._inner.watch(to, request, notices=notices, certificates=certificates)

    async def exchange(
        self,
        to: Address,
        question: Message,
        *,
        into: PartialMessage | None = None,
        certificates: Collection[bytes] = (),
    ) -> tuple[Message, Traffic]:
        ended = self._opened(f"exchange with {to}", call_bound(self._timing, question.header.body_bytes))
        try:
            return await self._inner.exchange(to, question, into=into, certificates=certificates)
        finally:
            ended()


_BODY = 64 * 1024
"""Bytes; larger than any answer of these peers."""


def call_bound(timing: Timing, brings: int = _BODY) -> float:
    """Seconds within which an exchange must end by the deadline rule: connecting, permission to send, sending what is
    brought, the first frame and the rest of the answer, and a stall window for each last frame."""
    return 3 * timing.base + timing.budget(brings) + timing.budget(_BODY) + 2 * timing.stall
