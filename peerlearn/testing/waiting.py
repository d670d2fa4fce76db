"""How long tests wait, and how they time on a machine that does not always let them run."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

SOON = 60.0
"""Seconds, for what comes at once on an idle machine: this ends only what would never end. `timed` measures speed."""

_TICK = 0.01
"""Seconds between two looks at the clock."""


async def until(condition: Callable[[], bool], *, within: float = SOON) -> None:
    """Looks every few milliseconds. Raises TimeoutError when the condition has not come true in time."""
    async with asyncio.timeout(within):
        await asyncio.sleep(_TICK)
        while not condition():  # noqa: ASYNC110  what is waited for has no event of its own
            await asyncio.sleep(_TICK)


@dataclass
class Stopwatch:
    """Seconds in which this process could run: a machine that is stopped or busy elsewhere adds nothing."""

    _counted: float = 0.0
    _last: float = field(default_factory=time.monotonic)
    _ended: threading.Event = field(default_factory=threading.Event)

    @property
    def seconds(self) -> float:
        """Counted so far."""
        return self._counted + self._since(time.monotonic())

    def _since(self, now: float) -> float:
        return min(now - self._last, 2 * _TICK)

    def _watch(self) -> None:
        while not self._ended.wait(_TICK):
            now = time.monotonic()
            self._counted, self._last = self._counted + self._since(now), now


@contextlib.contextmanager
def timed() -> Iterator[Stopwatch]:
    """A stopwatch that runs until the block is left, in a thread: what holds the event loop up is counted."""
    watch = Stopwatch()
    thread = threading.Thread(target=watch._watch, name="stopwatch", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch._ended.set()
        thread.join()
