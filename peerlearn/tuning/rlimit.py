"""A check at start that this process may open the connections that its limits allow."""

import os
import resource
import sys

PER_PEER = 3
"""Connections with one other peer: the one on which it calls us, and our two to it, for small and for large calls."""

_FOR_THE_REST = 32
"""Files and sockets for everything else: listening sockets, discovery, state and log files."""


def shortage(peers: int) -> str | None:
    """One sentence about why this process cannot open connections to so many peers, and what to do; None when it
    can."""
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
