"""What exchanges leave behind when they are cancelled, broken off, or simply many: nothing."""

import asyncio
import random
import statistics
import time

import psutil
import pytest

from peerlearn.config import MIB
from peerlearn.testing import until
from peerlearn.transport.grpc.transport import GrpcTransport
from peerlearn.types import Address
from tests.support.fair_peer import PATIENT, ROOMY, question
from tests.support.fair_provider import provider

SIZE = 4_000_000


class Held:
    """What this process and its provider hold now."""

    def __init__(self, provider: psutil.Process) -> None:
        self._processes = (psutil.Process(), provider)
        self.resident = [process.memory_info().rss for process in self._processes]
        self.open = [*(process.num_fds() for process in self._processes), len(asyncio.all_tasks())]
        """Descriptors, and tasks."""

    def grown(self, since: "Held") -> float:
        """Megabytes, of the one that has grown more."""
        return float(max(now - then for now, then in zip(self.resident, since.resident, strict=True))) / MIB


async def exchanges(transport: GrpcTransport, at: Address, times: int, *, cancelled: bool) -> int:
    """How many were cut short, at a random moment each."""
    draw = random.Random(times)
    took = []
    for _ in range(5):
        start = time.monotonic()
        await transport.exchange(at, question(SIZE))
        took.append(time.monotonic() - start)
    usual, cut = statistics.median(took), 0
    for _ in range(times):
        try:
            async with asyncio.timeout(draw.uniform(0, usual) if cancelled else None):
                await transport.exchange(at, question(SIZE))
        except TimeoutError:
            cut += 1
    await asyncio.sleep(0.2)  # what ends by itself has ended
    return cut


async def leave_nothing(*, warm: int, times: int, cancelled: bool, most: float) -> None:
    async with provider() as (process, at), GrpcTransport(timing=PATIENT, limits=ROOMY) as transport:
        await exchanges(transport, at, warm, cancelled=cancelled)
        before = Held(process)
        cut = await exchanges(transport, at, times, cancelled=cancelled)
        assert (cut >= times / 5) == cancelled
        await until(lambda: all(now <= then for now, then in zip(Held(process).open, before.open, strict=True)))
        assert Held(process).grown(before) < most


async def test_cancelled_exchanges_leave_nothing_behind() -> None:
    """gRPC keeps what an operation holds whose await is cancelled: half a megabyte for each of these."""
    await leave_nothing(warm=150, times=300, cancelled=True, most=32)


async def test_exchanges_leave_nothing_behind() -> None:
    await leave_nothing(warm=40, times=80, cancelled=False, most=16)


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_thousands_of_cancelled_exchanges_leave_nothing_behind() -> None:
    await leave_nothing(warm=500, times=2000, cancelled=True, most=32)
