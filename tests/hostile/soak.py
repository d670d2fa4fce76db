"""`scripts/soak`: four real peers on loopback for a quarter of an hour, killed with -9 and started again by chance.

Sampled: memory as the kernel sees it, and what of it is in use (the C library's heap, and Python's objects in thousands
of blocks), file descriptors, threads and tasks of every peer, and the disk that its state directory takes. One of the
four is never killed: it would show what the coming and going of others leaves behind. Shown: a table, how fast each
figure rises, and whether it is flat. Exit status 0: all is flat, and all peers know one another in the end.
"""

import argparse
import asyncio
import random
import secrets
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hostile.processes import Worker, disk, sample, slope, worker

MIB = 1 << 20
NAMES = ("amber", "birch", "cedar", "dahlia")
STEADY = NAMES[0]
"""Never killed."""
EVERY = 2.0
"""Seconds between samples."""
WARM = 6.0
"""Seconds of each life that are not judged: torch and gRPC fill their pools."""
LIFE, DEATH = (8.0, 30.0), (0.5, 4.0)
"""Seconds until one is killed, and until it is started again."""
KNOWN_AGAIN = 40.0


@dataclass(frozen=True)
class Measure:
    unit: str
    allowed: Callable[[float], float]
    """How much more the last third of a long life may have than its middle third."""


MEASURES = {
    "memory": Measure("MiB", lambda before: 4.0),
    "heap": Measure("MiB", lambda before: 2.0),
    "objects": Measure("k", lambda before: 0.01 * before),
    "files": Measure("", lambda before: 8),
    "threads": Measure("", lambda before: 4),
    "tasks": Measure("", lambda before: 12),
    "disk": Measure("MiB", lambda before: max(0.25, 0.1 * before)),
}


@dataclass
class Life:
    """From one start of a peer to its end."""

    began: float
    resumed: int = 0
    rounds: int = 0
    points: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    """By measure: minutes since the start of the soak, and the figure."""


@dataclass
class Soak:
    scratch: Path
    minutes: float
    rng: random.Random
    tag: str = field(default_factory=lambda: secrets.token_hex(4))
    lives: dict[str, list[Life]] = field(default_factory=lambda: defaultdict(list))
    up: dict[str, Worker] = field(default_factory=dict)
    kills: int = 0
    wrong: list[str] = field(default_factory=list)

    async def run(self) -> None:
        self.began = time.monotonic()
        self.end = self.began + 60 * self.minutes
        async with asyncio.TaskGroup() as tasks:
            stop = [asyncio.Event() for _ in NAMES]
            living = [tasks.create_task(self._live(name, number, stop[number])) for number, name in enumerate(NAMES)]
            sampling = tasks.create_task(self._sample())
            await asyncio.sleep(60 * self.minutes)
            await self._all_known()
            sampling.cancel()
            for each in stop:
                each.set()
            await asyncio.wait(living)

    async def _live(self, name: str, number: int, stop: asyncio.Event) -> None:
        """One life after another, until the soak is over."""
        while not stop.is_set():
            said = self.scratch / f"{name}.log"
            with said.open("wb") as errors:
                await self._one_life(name, number, stop, errors, said)
            if not stop.is_set():
                await asyncio.sleep(self.rng.uniform(*DEATH))

    async def _one_life(self, name: str, number: int, stop: asyncio.Event, errors: Any, said: Path) -> None:
        async with worker(
            errors=errors, name=name, tag=self.tag, classes=[number % 4, (number + 1) % 4], seed=number,
            strategy="distillation", state=str(self.scratch / name), pause=0.2,
        ) as made:  # fmt: skip
            life = Life(time.monotonic() - self.began, made.said["listening"]["round"])
            self._check_resumed(name, life)
            self.lives[name].append(life)
            self.up[name] = made
            if not await self._until_killed(name, made, stop):
                self._mourn(name, made, said)
            del self.up[name]

    async def _until_killed(self, name: str, made: Worker, stop: asyncio.Event) -> bool:
        """Or until it ends by itself: False."""
        left = self.end - time.monotonic()
        span = self.rng.uniform(*LIFE)
        spared = name == STEADY or span > left - 10
        death = float("inf") if spared else time.monotonic() + span
        while made.process.returncode is None and not stop.is_set() and time.monotonic() < death:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await made.process.wait()
        if made.process.returncode is not None:
            return False
        if stop.is_set():
            await made.finish()
        else:
            made.process.send_signal(signal.SIGKILL)
            self.kills += 1
        return True

    def _mourn(self, name: str, made: Worker, said: Path) -> None:
        why = said.read_text(errors="replace").strip().rpartition("\n")[2]
        self.wrong.append(f"{name} ended by itself, with status {made.process.returncode}: {why}")

    def _check_resumed(self, name: str, life: Life) -> None:
        """A life goes on where the one before stood: at most the running round is lost."""
        before = self.lives[name][-1].rounds if self.lives[name] else 0
        if life.resumed < before:
            self.wrong.append(f"{name} resumed at round {life.resumed}, after it had done {before}")

    async def _sample(self) -> None:
        while True:
            for name, made in tuple(self.up.items()):
                with suppress(OSError, ValueError):
                    self._note(name, made)
            await asyncio.sleep(EVERY)

    def _note(self, name: str, made: Worker) -> None:
        life, seen, well = self.lives[name][-1], sample(made.pid), made.said.get("well")
        minute = (time.monotonic() - self.began) / 60
        life.rounds = well["round"] if well else life.resumed
        if well is None or minute * 60 - life.began < WARM:
            return
        figures = {
            "memory": seen.rss / MIB, "heap": well["heap"] / MIB, "objects": well["objects"] / 1000,
            "files": seen.fds, "threads": seen.threads, "tasks": well["tasks"],
            "disk": disk(self.scratch / name) / MIB,
        }  # fmt: skip
        for measure, figure in figures.items():
            life.points[measure].append((minute, figure))

    async def _all_known(self) -> None:
        """In the end, with nobody killed any more, all know all."""
        others = {name: {other for other in NAMES if other != name} for name in NAMES}
        try:
            async with asyncio.timeout(KNOWN_AGAIN):
                while not all(name in self.up and self._here(name) == others[name] for name in NAMES):  # noqa: ASYNC110  seen from outside
                    await asyncio.sleep(0.5)
        except TimeoutError:
            here = {name: sorted(self._here(name)) for name in NAMES}
            self.wrong.append(f"{KNOWN_AGAIN:g} s after the last kill not all know one another: {here}")

    def _here(self, name: str) -> set[str]:
        made = self.up.get(name)
        return set(made.said["well"]["here"]) if made is not None and "well" in made.said else set()


def judge(soak: Soak) -> list[str]:
    """The table; and what is not flat. Judged is the life that was never cut short; of the others that no life ends
    with much more than the first did."""
    wrong = []
    for name in NAMES:
        print(
            f"{name:8} rounds at each start and end: {', '.join(f'{x.resumed}-{x.rounds}' for x in soak.lives[name])}"
        )
    print(f"{'peer':8} {'':8} {'first':>9} {'middle':>9} {'last':>9} {'per minute':>11}")
    for name in NAMES:
        lives = soak.lives[name]
        for measure, spec in MEASURES.items():
            points = [point for life in lives for point in life.points[measure]]
            if len(points) < 6:
                continue
            first, middle, last = thirds([figure for _, figure in points])
            rise = slope(points)
            flat = last - middle <= spec.allowed(middle)
            print(
                f"{name:8} {measure:8} {first:9.1f} {middle:9.1f} {last:9.1f} "
                f"{rise:+11.3f} {spec.unit:3} {'flat' if flat else 'RISING'}"
            )
            if not flat:
                wrong.append(f"{name}: {measure} rises from {middle:.1f} to {last:.1f} {spec.unit}")
    return wrong


def thirds(figures: list[float]) -> tuple[float, float, float]:
    """The median of each third."""
    size = len(figures) // 3
    return (
        statistics.median(figures[:size]), statistics.median(figures[size:-size]), statistics.median(figures[-size:]),
    )  # fmt: skip


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--minutes", type=float, default=15.0, help="how long (default 15; not less than 1.5)")
    parser.add_argument("--seed", type=int, default=0, help="another one kills at other moments (default 0)")
    options = parser.parse_args(arguments)
    if options.minutes < 1.5:
        parser.error(f"a soak needs 1.5 minutes or more to be judged, not {options.minutes:g}")
    with tempfile.TemporaryDirectory(prog := "peerlearn-soak-") as scratch:
        soak = Soak(Path(scratch), options.minutes, random.Random(f"{prog}{options.seed}"))
        asyncio.run(soak.run())
        wrong = [*judge(soak), *soak.wrong]
    print(f"{options.minutes:g} minutes, {len(NAMES)} peers, killed and started again {soak.kills} times")
    for sentence in wrong:
        print(f"WRONG    {sentence}", file=sys.stderr)
    print("verdict  " + ("flat" if not wrong else "NOT FLAT"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
