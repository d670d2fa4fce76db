"""How long tests wait, and how they time on a machine that does not always let them run."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

SOON = 60.0
"""For what comes at once on an idle machine: this only ends what would never end. Speed is measured by `timed`."""

TICK = 0.01


@dataclass
class Stopwatch:
    """Seconds in which this process could run: a machine that is stopped or busy elsewhere adds nothing."""

    _counted: float = 0.0
    _last: float = field(default_factory=time.monotonic)
    _ended: threading.Event = field(default_factory=threading.Event)

    @property
    def seconds(self) -> float:
        return self._counted + self._since(time.monotonic())

    def _since(self, now: float) -> float:
        return min(now - self._last, 2 * TICK)

    def _watch(self) -> None:
        while not self._ended.wait(TICK):
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
