"""A bad network under an experiment: what `[faults]` changes beside the frames themselves.

Over memory the clock is then virtual: it jumps to the next thing that is due, so that a lost frame costs no waiting,
and a seed decides every fault, every failure and every bit of the result. Over gRPC the clock is the real one.
"""

import asyncio
import functools
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, ParamSpec, TypeVar

from peerlearn.config import Timing
from peerlearn.experiments.run.clocks import CpuSeconds, Metered
from peerlearn.learning.learner import Learner
from peerlearn.orchestrator.training.compute import Compute, OwnThread
from peerlearn.simulation.loop import VirtualLoop
from peerlearn.transport.faults.grpc_relay import FaultyRelays
from peerlearn.transport.faults.model import Faults
from peerlearn.transport.grpc.transport import GrpcTransport

log = logging.getLogger("peerlearn")

P = ParamSpec("P")
T = TypeVar("T")

Kind = Literal["memory", "grpc"]

TIMING = Timing(
    suspect_after=10.0, gone_after=60.0, base=5.0, stall=5.0, floor_rate=1024, retry_first=0.05, retry_most=1.0
)
"""A lost frame costs one of these windows, not the minute that peers of an undisturbed run are given."""
_CALL = 0.2
"""Virtual seconds of everything that a learner is asked to do: some ten calls make a round."""


@contextmanager
def runner(faults: Faults | None, kind: Kind) -> Iterator[asyncio.Runner]:
    """What runs the peers, on a virtual clock where nothing of the real world is waited for."""
    with asyncio.Runner(loop_factory=VirtualLoop if virtual(faults, kind) else None) as runner:
        yield runner
        loop = runner.get_loop()
        if isinstance(loop, VirtualLoop):
            for failure in loop.failures:  # asyncio's own loops log them
                log.error("%s", failure)


def internals(faults: Faults | None, kind: Kind, *, seed: int, peer: str) -> Mapping[str, Any]:
    """Arguments of Internals for one peer, beside those of an undisturbed run."""
    if faults is None:
        return {}
    if not virtual(faults, kind):
        own = int.from_bytes(hashlib.sha256(f"{seed}/{peer}".encode()).digest()[:8], "big")
        return {"transport": FaultyRelays(GrpcTransport(timing=TIMING), faults, own)}
    return {"session": hashlib.sha256(f"session/{seed}/{peer}".encode()).hexdigest()[:16]}


class VirtualCompute:
    """Runs calls through the virtual loop, which makes them at once: a thread's timing cannot be repeated."""

    async def run(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        call = functools.partial(func, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(None, call)

    async def close(self) -> None:
        return None


class DelayedCompute(VirtualCompute):
    """The learner's: every call takes its virtual time, so that pauses and beats come and go as they would beside real
    training."""

    def __init__(self, clock: CpuSeconds) -> None:
        self._clock = clock

    async def run(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def timed() -> T:
            with self._clock.running():
                return func(*args, **kwargs)

        result = await super().run(timed)
        await asyncio.sleep(_CALL)
        return result


def compute(faults: Faults | None, kind: Kind, room: str, *, name: str, learner: Learner, clock: CpuSeconds) -> Compute:
    """Where a peer's `room`, "learner" or "answers", computes in such a run."""
    if virtual(faults, kind):
        return DelayedCompute(clock) if room == "learner" else VirtualCompute()
    return Metered(name, learner, clock) if room == "learner" else OwnThread(f"{name}:{room}")


def virtual(faults: Faults | None, kind: Kind) -> bool:
    """Whether the clock is."""
    return faults is not None and kind == "memory"
