"""The one deadline rule: how long to wait for a first frame, for the next one, and for all of a message."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from peerlearn.config import Timing
from peerlearn.errors import PeerUnreachable

T = TypeVar("T")


class Overdue(PeerUnreachable):
    """It was given up by the deadline rule; its connection may well stand."""


class Patience:
    """With one peer, in one call. On the loop's clock, so that a virtual one can drive it.

    From `open()` to the first frame `base` may pass (connecting included), between frames `stall`; and from `begin(n)`
    on, a message of n bytes is through within `budget(n)` even if bytes still trickle in.
    PeerUnreachable says what was missed.
    """

    def __init__(self, timing: Timing, peer: str) -> None:
        self._timing = timing
        self._peer = peer
        self.open()

    def open(self) -> None:
        """The other side's turn begins: its first frame is waited for from now on."""
        self._opened = asyncio.get_running_loop().time()
        self._end = float("inf")

    def begin(self, nbytes: int) -> None:
        """A message of `nbytes` begins to flow: its budget runs from now on."""
        self._end = asyncio.get_running_loop().time() + self._timing.budget(nbytes)

    async def first(self, awaited: Awaitable[T], what: str) -> T:
        """Wait for something that must be there within `base` of `open()`; `what` names what is missing if not."""
        late = f"{what} within {self._timing.base:g} s"
        return await self._until(self._opened + self._timing.base, awaited, late)

    async def next(self, awaited: Awaitable[T], what: str) -> T:
        """Wait for a next frame, or for room to send one."""
        stalled = asyncio.get_running_loop().time() + self._timing.stall
        if stalled <= self._end:
            return await self._until(stalled, awaited, f"{what} for {self._timing.stall:g} s")
        slow = f"the exchange is slower than {self._timing.floor_rate:g} bytes per second: {what}"
        return await self._until(self._end, awaited, slow)

    async def _until(self, when: float, awaited: Awaitable[T], why: str) -> T:
        try:
            async with asyncio.timeout_at(when):
                return await awaited
        except TimeoutError:
            raise Overdue(self._peer, why) from None
