"""Whether this process may open as many connections as its limits allow peers: said at the start, not found out."""

import os
import resource
import sys

PER_PEER = 3
"""Connections with one other peer: the one it calls us by, and ours for small and for large calls."""

_FOR_THE_REST = 32


def shortage(peers: int) -> str | None:
    """Why so many peers cannot all be met, and what to do, in one sentence; None when they can."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _open_now() + _FOR_THE_REST + PER_PEER * peers
    if allowed == resource.RLIM_INFINITY or needed <= allowed:
        return None
    enough = "" if most == resource.RLIM_INFINITY or needed <= most else f" (at most {most} here)"
    return (
        f"this process may open {allowed} files and connections, and {peers} other peers can take {needed}: "
        f"run `ulimit -n {needed}`{enough} before it, or lower Limits(peers=...)"
    )


def _open_now() -> int:
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
