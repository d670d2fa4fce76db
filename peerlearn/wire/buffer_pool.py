"""Memory for the bodies of messages: a region that one message has left serves the next, its pages in place already."""

import mmap
import weakref
from contextlib import suppress

from peerlearn.config import MIB

LEAST = 4 * MIB
"""Below it an allocator has memory at hand anyway."""

_WASTE = 1.25
"""How many times larger than its message a region may be. Bodies of one model differ by a few bytes; more would hold
memory that no message asked for."""

_FLAGS = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)
_HUGE, _FREE = getattr(mmap, "MADV_HUGEPAGE", None), getattr(mmap, "MADV_FREE", None)


class BufferPool:
    """One for a process. A region comes back when the last view of it is gone, tensors included, on whatever thread.

    Filling fresh memory costs twice what filling the same again does: the system zeroes every page. What lies idle is
    marked as free, so that the system takes it first when it needs memory, and is together no more than one message
    may have by its limits.
    """

    def __init__(self) -> None:
        self._idle: list[mmap.mmap] = []

    @property
    def idle_bytes(self) -> int:
        """Bytes of regions that no message uses."""
        return sum(map(len, tuple(self._idle)))

    def take(self, nbytes: int, most_idle: int) -> memoryview:
        """A writable view of `nbytes` bytes, with any content. `most_idle`: bytes that may lie idle once this is given
        back. Raises MemoryError."""
        if nbytes < MIB:
            return memoryview(bytearray(nbytes))
        import numpy as np  # takes a third of the time in which a program without it starts and asks once

        if nbytes < LEAST or not _FLAGS or _FREE is None:
            return np.empty(nbytes, np.uint8).data  # numpy asks for huge pages: a sixth of bytearray's page faults
        region = self._found(nbytes) or _mapped(nbytes)
        place = np.frombuffer(region, np.uint8, nbytes)
        weakref.finalize(place, self._back, region, most_idle).atexit = False
        return place.data

    def drop(self) -> None:
        """Give everything that lies idle back to the system."""
        self._idle.clear()

    def _found(self, nbytes: int) -> mmap.mmap | None:
        """The smallest that fits. Others may take and give back meanwhile: each step is one of a list's own."""
        for region in sorted(tuple(self._idle), key=len):
            if nbytes <= len(region) <= _WASTE * nbytes:
                with suppress(ValueError):  # another thread took it first
                    self._idle.remove(region)
                    return region
        self.drop()  # of other sizes: they would lie there beside the new one
        return None

    def _back(self, region: mmap.mmap, most_idle: int) -> None:
        if self.idle_bytes + len(region) <= most_idle and _FREE is not None:
            with suppress(OSError):
                region.madvise(_FREE)
            self._idle.append(region)


def _mapped(nbytes: int) -> mmap.mmap:
    try:
        region = mmap.mmap(-1, nbytes, flags=_FLAGS)
    except (OSError, OverflowError, ValueError) as exc:
        raise MemoryError(str(exc)) from exc
    if _HUGE is not None:
        with suppress(OSError):  # a system without huge pages
            region.madvise(_HUGE)
    return region


arenas = BufferPool()
