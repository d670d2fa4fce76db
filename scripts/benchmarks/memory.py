"""What this process holds: memory, descriptors, tasks. From /proc, so on Linux only; elsewhere nothing is known."""

import asyncio
import threading
from pathlib import Path

_PROC = Path("/proc/self")


def known() -> bool:
    """Whether memory and its peak can be read here."""
    return (_PROC / "clear_refs").exists()


def forget_peak() -> None:
    """From now on `peak` is that of what follows."""
    if known():
        (_PROC / "clear_refs").write_text("5")


def held() -> dict[str, int]:
    """Bytes `resident` and at the `peak`, and the numbers of `descriptors`, `tasks` and `threads`."""
    lines = (_PROC / "status").read_text().splitlines() if known() else []
    sizes = {line.partition(":")[0]: line.split()[1] for line in lines if line.endswith(" kB")}
    return {
        "resident": 1024 * int(sizes.get("VmRSS", 0)),
        "peak": 1024 * int(sizes.get("VmHWM", 0)),
        "descriptors": len(list((_PROC / "fd").iterdir())) if known() else 0,
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
    }
