"""glibc's allocator and frames of a megabyte: settings for our own programs, and a hint that helps other programs."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h


def tune_allocator() -> bool:
    """Make glibc keep freed frames for reuse. By default it returns each one to the system, which costs a page fault
    per page.

    Doubles the speed of bulk exchanges and halves the receiver's memory. Call it once at program start, before any
    thread is started. Returns False, and changes nothing, where the allocator is not glibc's.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version") or not hasattr(libc, "mallopt"):
        return False
    # Thresholds well above a frame (1 MiB) and the look-ahead (8 MiB), and two arenas, as measured in
    # docs/performance.md under "The allocator".
    settings = ((_ARENA_MAX, 2), (_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 64 << 20))
    return all([libc.mallopt(name, value) == 1 for name, value in settings])


def let_allocator_adapt(nbytes: int) -> None:
    """Free an untouched block of `nbytes`, at most 32 MiB. Transports in other people's programs call this once.

    glibc adapts by itself: it keeps free memory up to twice the largest block that it has seen freed. While that is a
    frame of 1 MiB, a receiver of several frames returns all of them and faults them in again: 25,000 pages for 100 MB,
    against 500 after this call. No setting is changed. A program that frees a tensor of this size has the same effect.
    Where a program has set its own values, glibc does not adapt, and those values hold.
    """
    bytearray(nbytes)
