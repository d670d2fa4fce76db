"""The one deadline rule: frames push it on, silence ends it, and whoever cancels a call gets the cancellation."""

import asyncio

import pytest

from peerlearn.config import brisk
from peerlearn.errors import PeerUnreachable
from peerlearn.transport.exchange.deadline import Deadline, Overdue

TIMING = brisk()
"""base 2 s, stall 1 s."""


async def after(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "frame"


async def test_frames_push_the_deadline_on_and_silence_after_them_ends_it() -> None:
    loop = asyncio.get_running_loop()
    with Deadline(TIMING, "birch") as patience:
        patience.begin(1 << 30)
        began = loop.time()
        for _ in range(4):
            assert await patience.next(after(0.4), "nothing more came") == "frame"
        assert loop.time() - began > TIMING.stall
        silent = loop.time()
        with pytest.raises(Overdue, match="birch: nothing more came for 1 s"):
            await patience.next(after(60), "nothing more came")
        assert TIMING.stall <= loop.time() - silent < TIMING.stall + 5


async def test_a_call_can_be_waited_for_again_after_it_was_overdue() -> None:
    with Deadline(TIMING, "birch") as patience:
        with pytest.raises(Overdue, match="no answer within 2 s"):
            await patience.first(after(60), "no answer")
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
        patience.open()
        assert await patience.first(after(0), "no answer") == "frame"


async def test_whoever_cancels_a_call_gets_the_cancellation() -> None:
    async def call() -> None:
        with Deadline(TIMING, "birch") as patience:
            await patience.next(after(60), "nothing more came")

    async with asyncio.TaskGroup() as group:
        task = group.create_task(call())
        await asyncio.sleep(0.05)
        task.cancel()
    assert task.cancelled()


async def test_an_error_of_what_is_waited_for_comes_out_as_it_is_and_leaves_no_timer() -> None:
    async def fail() -> None:
        raise PeerUnreachable("birch", "gone")

    patience = Deadline(TIMING, "birch")
    with patience, pytest.raises(PeerUnreachable, match="gone"):
        await patience.next(fail(), "nothing more came")
    assert patience._timer is None


async def test_hundreds_of_frames_set_one_timer() -> None:
    loop = asyncio.get_running_loop()
    with Deadline(TIMING, "birch") as patience:
        await patience.next(after(0), "nothing")
        timer = patience._timer
        for _ in range(300):
            await patience.next(after(0), "nothing")
            assert patience._timer is timer or loop.time() > (timer.when() if timer else 0)
