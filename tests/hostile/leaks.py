"""What must be as it was after peers have come and gone: tasks, threads, file descriptors."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

FDS = Path("/proc/self/fd")


@dataclass(frozen=True)
class Held:
    tasks: int
    threads: frozenset[str]
    """By name: of peers' own executors; the loop's own pool stays until the loop ends."""
    fds: int

    @classmethod
    def now(cls) -> "Held":
        threads = frozenset(thread.name for thread in threading.enumerate() if ":" in thread.name)
        return cls(len(asyncio.all_tasks()), threads, len(os.listdir(FDS)) if FDS.exists() else 0)


@asynccontextmanager
async def nothing_left(*, more_fds: int = 0) -> AsyncIterator[None]:
    """Fails when something is left after the block. What ends a moment later is waited for; `more_fds`: how many file
    descriptors a library may keep for good, once per process."""
    before = Held.now()
    yield
    try:
        async with asyncio.timeout(10):
            while not _fits(after := Held.now(), before, more_fds):  # noqa: ASYNC110  has no event of its own
                await asyncio.sleep(0.02)
    except TimeoutError:
        names = sorted(task.get_name() for task in asyncio.all_tasks())
        raise AssertionError(f"left behind: {before} became {after}; tasks {names}") from None


def _fits(after: Held, before: Held, more_fds: int) -> bool:
    return after.tasks <= before.tasks and after.threads <= before.threads and after.fds <= before.fds + more_fds
