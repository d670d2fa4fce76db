"""What must be as it was after peers have come and gone: tasks, threads, file descriptors, environment variables."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

_FDS = Path("/proc/self/fd")
_PATIENCE = 10.0
"""Seconds for what ends a moment after the block."""


@dataclass(frozen=True)
class Held:
    """What this process holds at one moment."""

    tasks: int
    """asyncio tasks of the running loop that have not ended."""
    threads: frozenset[str]
    """Names of threads of peers' own: these have a colon. The loop's own pool stays until the loop ends."""
    fds: int
    """Open file descriptors; 0 where the system does not list them."""
    environment: frozenset[tuple[str, str]] = frozenset()
    """Environment variables and their values."""

    @classmethod
    def now(cls) -> "Held":
        """As it is now. Raises RuntimeError outside a running event loop."""
        threads = frozenset(thread.name for thread in threading.enumerate() if ":" in thread.name)
        return cls(
            len(asyncio.all_tasks()),
            threads,
            len(os.listdir(_FDS)) if _FDS.exists() else 0,
            frozenset(os.environ.items()),
        )

    def left_since(self, before: "Held", *, more_fds: int = 0) -> str:
        """What is here now and was not before, in words; empty: nothing. `more_fds`: descriptors that may be left."""
        found = []
        if self.tasks > before.tasks:
            found.append(f"{self.tasks - before.tasks} tasks ({', '.join(sorted(map(_name, asyncio.all_tasks())))})")
        if self.threads - before.threads:
            found.append(f"threads {', '.join(sorted(self.threads - before.threads))}")
        if self.fds > before.fds + more_fds:
            found.append(f"{self.fds - before.fds} file descriptors, where {more_fds} may stay")
        if self.environment != before.environment:
            changed = sorted({name for name, _ in self.environment ^ before.environment})
            found.append(f"environment variables {', '.join(changed)}")
        return "; ".join(found)


@asynccontextmanager
async def nothing_left(*, more_fds: int = 0) -> AsyncIterator[None]:
    """Raises AssertionError when something is left after the block, and says what. What ends within a few seconds is
    waited for. `more_fds`: how many file descriptors a library may keep for good, once per process."""
    before = Held.now()
    yield
    try:
        async with asyncio.timeout(_PATIENCE):
            while Held.now().left_since(before, more_fds=more_fds):  # noqa: ASYNC110  has no event of its own
                await asyncio.sleep(0.02)
    except TimeoutError:
        left = Held.now().left_since(before, more_fds=more_fds)
        raise AssertionError(f"left behind: {left}") from None


def _name(task: "asyncio.Task[object]") -> str:
    return task.get_name()
