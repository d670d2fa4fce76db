"""glibc's allocator, tuned for frames of a megabyte. For programs of our own; a library leaves its host's alone."""

import ctypes
import sys

from peerlearn.config import MIB

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
    settings = ((_ARENA_MAX, 2), (_MMAP_THRESHOLD, 32 * MIB), (_TRIM_THRESHOLD, 64 * MIB))
    return all([libc.mallopt(name, value) == 1 for name, value in settings])
