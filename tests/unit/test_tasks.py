"""Tasks of a block: a failure ends it, unless the work is supervised, which logs, pauses and begins anew."""

import asyncio
import logging
from itertools import pairwise

import pytest

from peerlearn.errors import IdentityError, InvariantBroken
from peerlearn.simulation.loop import VirtualLoop
from peerlearn.tasks import FIRST_PAUSE, LONGEST_PAUSE, background


def on_a_virtual_clock(work: object) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(work)  # type: ignore[arg-type]


async def test_work_that_fails_ends_its_block_with_its_own_error() -> None:
    async def fails() -> None:
        raise OSError("mine")

    async def block() -> None:
        async with background() as tasks:
            tasks.start(fails(), name="fails")
            await asyncio.sleep(10)

    with pytest.raises(OSError, match="mine"):
        await block()


def test_supervised_work_begins_anew_and_each_kind_of_error_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    began: list[float] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()

        async def fails() -> None:
            began.append(loop.time())
            raise OSError("no descriptors") if len(began) % 2 else ValueError("odd")

        async with background() as tasks:
            tasks.supervise(fails, name="looks", lost="new networks are not noticed")
            await asyncio.sleep(1000)

    with caplog.at_level(logging.WARNING, "peerlearn"):
        on_a_virtual_clock(run())
    pauses = [after - before for before, after in pairwise(began)]
    expected = [min(FIRST_PAUSE * 2**n, LONGEST_PAUSE) for n in range(len(pauses))]
    assert pauses == pytest.approx(expected)
    assert len(began) > 15
    assert caplog.messages == [
        "looks failed and begins anew; meanwhile new networks are not noticed: OSError: no descriptors",
        "looks failed and begins anew; meanwhile new networks are not noticed: ValueError: odd",
    ]


async def test_supervised_work_that_ends_is_done_and_one_that_is_cancelled_leaves() -> None:
    done: list[int] = []

    async def once() -> None:
        done.append(1)

    async with background() as tasks:
        await tasks.supervise(once, name="once", lost="nothing")
        waiting = tasks.supervise(lambda: asyncio.sleep(60), name="waits", lost="nothing")
        await asyncio.sleep(0)
    assert done == [1]
    assert waiting.cancelled()


@pytest.mark.parametrize("wanted", [InvariantBroken, IdentityError])
async def test_what_is_meant_to_end_a_peer_does_so_from_within_supervised_work_too(wanted: type[Exception]) -> None:
    async def breaks() -> None:
        raise wanted("ours")

    async def block() -> None:
        async with background() as tasks:
            tasks.supervise(breaks, name="breaks", lost="nothing")
            await asyncio.sleep(10)

    with pytest.raises(wanted):
        await block()
