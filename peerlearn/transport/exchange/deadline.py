"""The one deadline rule: how long to wait for a first frame, for the next one, and for all of a message."""

import asyncio
import math
from collections.abc import Awaitable
from types import TracebackType
from typing import Self, TypeVar

from peerlearn.config import Timing
from peerlearn.errors import PeerUnreachable

T = TypeVar("T")


class Overdue(PeerUnreachable):
    """It was given up by the deadline rule; its connection may well stand."""


class Deadline:
    """With one peer, in one call, by one task. On the loop's clock, so that a virtual one can drive it.

    From `open()` to the first frame `base` may pass (connecting included), between frames `stall`; and from `begin(n)`
    on, a message of n bytes is through within `budget(n)` even if bytes still trickle in.
    PeerUnreachable says what was missed.

    A deadline that is pushed on with every frame has one timer, which looks at the clock again when it rings: to set
    and to clear one each time costs as much as all the rest that a frame needs. `close()` stops it.
    """

    def __init__(self, timing: Timing, peer: str) -> None:
        self._timing = timing
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._until_then = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._late = False
        self.open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def now(self) -> float:
        """In seconds, on the loop's clock."""
        return self._loop.time()

    def open(self) -> None:
        """The other side's turn begins: its first frame is waited for from now on."""
        self._opened = self._loop.time()
        self._end = math.inf

    def begin(self, nbytes: int) -> None:
        """A message of `nbytes` begins to flow: its budget runs from now on."""
        self._end = self._loop.time() + self._timing.budget(nbytes)

    def close(self) -> None:
        """Nothing is waited for any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def first(self, awaited: Awaitable[T], what: str) -> T:
        """Wait for something that must be there within `base` of `open()`; `what` names what is missing if not."""
        try:
            return await self._until(self._opened + self._timing.base, awaited)
        except TimeoutError:
            raise Overdue(self._peer, f"{what} within {self._timing.base:g} s") from None

    async def next(self, awaited: Awaitable[T], what: str) -> T:
        """Wait for a next frame, or for room to send one."""
        stalled = self._loop.time() + self._timing.stall
        try:
            return await self._until(min(stalled, self._end), awaited)
        except TimeoutError:
            if stalled <= self._end:
                raise Overdue(self._peer, f"{what} for {self._timing.stall:g} s") from None
            slow = f"the exchange is slower than {self._timing.floor_rate:g} bytes per second: {what}"
            raise Overdue(self._peer, slow) from None

    async def _until(self, when: float, awaited: Awaitable[T]) -> T:
        """Raises TimeoutError. As `asyncio.timeout_at`, which tells its own cancellation from that of others.

        The task is no local variable here: it will hold the error, which holds this frame, and they would wait for the
        cycle collector."""
        self._waiting = asyncio.current_task()
        assert self._waiting is not None
        self._cancelling, self._late, self._until_then = self._waiting.cancelling(), False, when
        if self._timer is None or when < self._timer.when():
            self._ring_at(when)
        try:
            result = await awaited
            if self._late:
                self._waiting.uncancel()
            return result
        except BaseException as error:
            late = self._late and self._waiting.uncancel() <= self._cancelling
            if late and isinstance(error, asyncio.CancelledError):
                raise TimeoutError from error
            raise
        finally:
            self._until_then, self._waiting = math.inf, None

    def _ring_at(self, when: float) -> None:
        self.close()
        self._timer = self._loop.call_at(when, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._waiting is None:
            return
        if self._loop.time() < self._until_then:
            self._ring_at(self._until_then)
            return
        self._late = True
        self._waiting.cancel()
