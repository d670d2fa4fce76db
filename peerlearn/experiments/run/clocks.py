"""Seconds that training takes: on the wall, and of the processor, which other work on the machine does not inflate."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from peerlearn.learning.learner import Learner
from peerlearn.orchestrator.training.compute import OwnThread

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class Wall:
    """Of one block; known once it has ended."""

    seconds: float = 0.0


class CpuSeconds:
    """Processor seconds of one learner's thread, what is spent on measuring left out. `running` and `paused` nest."""

    def __init__(self) -> None:
        self.spent = 0.0

    @contextmanager
    def running(self) -> Iterator[Wall]:
        wall, began, cpu = Wall(), time.monotonic(), time.thread_time()
        try:
            yield wall
        finally:
            self.spent += time.thread_time() - cpu
            wall.seconds = time.monotonic() - began

    @contextmanager
    def paused(self) -> Iterator[None]:
        cpu = time.thread_time()
        try:
            yield
        finally:
            self.spent -= time.thread_time() - cpu


class Metered(OwnThread):
    """A learner's own thread with a clock on it. What is `paused` must run through here too."""

    def __init__(self, name: str, learner: Learner, clock: CpuSeconds) -> None:
        super().__init__(f"{name}:learner", interrupt=learner.interrupt, go_on=learner.go_on)
        self._clock = clock

    async def run(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def timed() -> T:
            with self._clock.running():
                return func(*args, **kwargs)

        return await super().run(timed)
