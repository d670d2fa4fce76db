"""Workers as seen from outside: what they say, and what the kernel says of them (Linux)."""

import asyncio
import json
import os
import statistics
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Sample:
    rss: int
    """Bytes."""
    fds: int
    threads: int


def sample(pid: int) -> Sample:
    """Raises OSError when the process has gone."""
    proc = Path(f"/proc/{pid}")
    rss = int((proc / "statm").read_text().split()[1]) * _PAGE
    threads = len(os.listdir(proc / "task"))
    return Sample(rss, len(os.listdir(proc / "fd")), threads)


def disk(directory: Path) -> int:
    """Bytes of all files below; those that vanish meanwhile do not count."""
    total = 0
    for path in directory.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


@dataclass
class Worker:
    process: Process
    settings: dict[str, Any]
    said: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The last of each kind."""
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def pid(self) -> int:
        return self.process.pid

    async def listen(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            fact = json.loads(line)
            self.said[fact["what"]] = fact
            self.news.set()
        self.news.set()

    async def says(self, what: str, *, within: float = 150.0) -> dict[str, Any]:
        async with asyncio.timeout(within):
            while what not in self.said:
                if self.process.returncode is not None:
                    raise AssertionError(f"{self.settings['name']} ended ({self.process.returncode}) without {what!r}")
                self.news.clear()
                await self.news.wait()
        return self.said[what]

    async def finish(self) -> dict[str, Any]:
        """Let it finish its round; what it says of its model."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return await self.says("done")


@asynccontextmanager
async def worker(*, errors: Any = DEVNULL, **settings: Any) -> AsyncIterator[Worker]:
    """Killed when the block is left."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "GRPC_ENABLE_FORK_SUPPORT": "0"}
    command = [sys.executable, "-m", "tests.hostile.worker", json.dumps(settings)]
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=errors, env=env, cwd=ROOT)
    made = Worker(process, settings)
    try:
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(made.listen())
            await made.says("listening")
            yield made
            listening.cancel()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Per unit of x: the median of the slopes of all pairs (Theil and Sen), which single peaks do not move. 0 for fewer
    than two points."""
    thinned = points[:: max(1, len(points) // 200)]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for i, a in enumerate(thinned) for b in thinned[i + 1 :] if b[0] > a[0]]
    return statistics.median(slopes) if slopes else 0.0
