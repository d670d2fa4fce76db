"""glibc's allocator and frames of a megabyte: tuned in programs of our own, helped to adapt in those of others."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h


def tune_allocator() -> bool:
    """Keep freed frames for the next ones instead of giving each back to the system, page fault by page fault.

    Doubles the speed of bulk exchanges and halves the receiver's memory (TRANSPORT, section B). Call it once, at the
    start of a program, before threads are started. False where the allocator is not glibc's: nothing was changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version") or not hasattr(libc, "mallopt"):
        return False
    settings = ((_ARENA_MAX, 2), (_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 64 << 20))
    return all([libc.mallopt(name, value) == 1 for name, value in settings])


def let_allocator_adapt(nbytes: int) -> None:
    """Free a block of `nbytes`, at most 32 MiB, which nobody has touched. For transports in programs of others.

    glibc adapts by itself: of free memory it keeps twice the largest block that it has seen freed. While that is a
    frame of 1 MiB, a receiver with several under way gives all of them back and faults them in again: 25,000 pages for
    100 MB, and 500 after this. No setting is made. The first tensor of this size that a program frees does the same;
    where a program has made settings of its own, glibc adapts no more, and they hold.
    """
    bytearray(nbytes)
