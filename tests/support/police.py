"""What a test must not leave behind: tasks, threads, file descriptors, environment variables."""

import asyncio
import gc
import os
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

FDS = Path("/proc/self/fd")

PATIENCE = 20.0
"""Seconds for what ends a moment after a test: only a test that leaves something waits at all."""

NOT_COUNTED = ("socket", "anon_inode:[eventfd]", "anon_inode:[eventpoll]", "font")
"""Kinds of descriptors that libraries close later than a test ends, on threads of their own: gRPC its sockets and the
poller of its asyncio layer, matplotlib the fonts that it has drawn with. That exchanges leave no connection behind is
held by tests/integration/test_leaks.py, which waits for them."""

SET_BY_LIBRARIES = frozenset({"KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "TORCHINDUCTOR_CACHE_DIR"})
"""Environment variables set once, when they are imported, by scikit-learn (the first two) and torch."""

OTHERS_THREADS = ("asyncio_",)
"""Starts of names of threads that belong to an event loop and end with it."""

IGNORED_ENVIRONMENT = ("PYTEST_CURRENT_TEST",)


@dataclass(frozen=True)
class Scene:
    """What this process holds."""

    threads: frozenset[threading.Thread]
    descriptors: Counter[str]
    environment: frozenset[tuple[str, str]]

    @classmethod
    def now(cls) -> "Scene":
        return cls(
            frozenset(thread for thread in threading.enumerate() if watched(thread)),
            descriptors(),
            frozenset(item for item in os.environ.items() if item[0] not in IGNORED_ENVIRONMENT),
        )


def watched(thread: threading.Thread) -> bool:
    """Threads of peers have a colon in their names. Others are watched unless they are daemons, as libraries keep."""
    return not thread.name.startswith(OTHERS_THREADS) and (":" in thread.name or not thread.daemon)


def descriptors() -> Counter[str]:
    """Open descriptors by kind: "pipe", or the path of a file; without those of NOT_COUNTED."""
    found: Counter[str] = Counter()
    if FDS.exists():
        for name in os.listdir(FDS):
            try:
                target = os.readlink(FDS / name)
            except OSError:
                continue  # the one that has listed the others
            if (kind := kind_of(target)) not in NOT_COUNTED:
                found[kind] += 1
    return found


def kind_of(target: str) -> str:
    """Of what a descriptor leads to."""
    if target.startswith("anon_inode"):
        return target
    return "font" if target.endswith(".ttf") else target.partition(":[")[0]


def left(before: Scene, after: Scene) -> str:
    """What a test has left beyond what libraries keep, in words; empty: nothing."""
    found = []
    if threads := sorted(thread.name for thread in after.threads - before.threads if thread.is_alive()):
        found.append(f"threads {', '.join(threads)}")
    if kinds := after.descriptors - before.descriptors:
        found.append("file descriptors " + ", ".join(f"{n} x {kind}" for kind, n in sorted(kinds.items())))
    changed = {name for name, _ in after.environment ^ before.environment}
    if variables := sorted(changed - SET_BY_LIBRARIES):
        found.append(f"environment variables {', '.join(variables)}")
    return "; ".join(found)


def left_for_good(before: Scene) -> str:
    """The same, when what ends a moment later has ended and unreachable objects are freed."""
    until = time.monotonic() + PATIENCE
    while (found := left(before, Scene.now())) and time.monotonic() < until:
        gc.collect()
        time.sleep(0.02)
    return found


def still_running() -> set["asyncio.Task[object]"]:
    return {task for task in asyncio.all_tasks() if not task.done()}


async def tasks_left(before: set["asyncio.Task[object]"]) -> str:
    """Tasks of the running loop that were not there before and do not end by themselves, by name."""
    until = time.monotonic() + PATIENCE
    while (new := still_running() - before) and time.monotonic() < until:  # noqa: ASYNC110  tasks of all kinds
        await asyncio.sleep(0.01)
    return ", ".join(sorted(f"{task.get_name()} ({task.get_coro()})" for task in new))
