"""The one deadline rule, to the moment, on a virtual clock: what is waited for, how long, and what cancels what."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec

import pytest

from peerlearn.config import Timing
from peerlearn.errors import PeerUnreachable
from peerlearn.simulation.loop import VirtualLoop
from peerlearn.transport.exchange.deadline import Deadline, Overdue

P = ParamSpec("P")

TIMING = Timing(base=2.0, stall=1.0, floor_rate=1000)
NOTHING = "nothing more came"


def virtually(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run the test on a loop whose clock jumps from timer to timer and starts at 0: times are exact."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


def now() -> float:
    return asyncio.get_running_loop().time()


async def after(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "frame"


async def overdue(awaited: Awaitable[object]) -> tuple[str, float]:
    """What is said of a wait that is overdue, and when."""
    with pytest.raises(Overdue) as caught:
        await awaited
    return str(caught.value), now()


def cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


# ---------------------------------------------------------------- how long


@virtually
async def test_the_first_frame_may_take_the_base_from_opening_on_however_often_it_is_asked_for() -> None:
    with Deadline(TIMING, "birch") as deadline:
        assert deadline.now == now()
        assert await deadline.first(after(1.25), "no answer") == "frame"
        assert await overdue(deadline.first(after(60), "no answer")) == ("birch: no answer within 2 s", 2.0)
        await asyncio.sleep(3)
        deadline.open()
        assert await deadline.first(after(1.75), "no answer") == "frame"
        assert await overdue(deadline.first(after(60), "no answer")) == ("birch: no answer within 2 s", 7.0)


@virtually
async def test_frames_push_the_deadline_on_and_silence_after_them_ends_it() -> None:
    with Deadline(TIMING, "birch") as deadline:
        deadline.begin(1 << 30)
        for _ in range(4):
            assert await deadline.next(after(0.75), NOTHING) == "frame"
        assert await overdue(deadline.next(after(60), NOTHING)) == ("birch: nothing more came for 1 s", 4.0)


@virtually
async def test_a_message_that_trickles_is_given_up_at_the_end_of_its_budget() -> None:
    with Deadline(TIMING, "birch") as deadline:
        await asyncio.sleep(0.5)
        deadline.begin(500)
        ends = 0.5 + TIMING.budget(500)
        for _ in range(4):
            await deadline.next(after(0.75), NOTHING)
        said = "birch: the exchange is slower than 1000 bytes per second: nothing more came"
        assert await overdue(deadline.next(after(0.75), NOTHING)) == (said, ends)


@virtually
async def test_at_one_moment_silence_is_the_reason_and_not_the_rate() -> None:
    with Deadline(TIMING, "birch") as deadline:
        deadline.begin(0)
        await asyncio.sleep(2)
        assert await overdue(deadline.next(after(60), NOTHING)) == ("birch: nothing more came for 1 s", 3.0)


@virtually
async def test_a_turn_that_opens_ends_the_budget_of_the_message_before_it() -> None:
    with Deadline(TIMING, "birch") as deadline:
        deadline.begin(0)
        await asyncio.sleep(2.5)
        deadline.open()
        assert await deadline.next(after(0.75), NOTHING) == "frame"


@virtually
async def test_without_a_message_there_is_no_budget() -> None:
    with Deadline(TIMING, "birch") as deadline:
        for _ in range(100):
            assert await deadline.next(after(0.75), NOTHING) == "frame"


@virtually
async def test_a_call_can_be_waited_for_again_after_it_was_overdue() -> None:
    with Deadline(TIMING, "birch") as deadline:
        for round_ in range(1, 4):
            assert await overdue(deadline.next(after(60), NOTHING)) == ("birch: nothing more came for 1 s", round_)
            assert cancelling() == 0
        deadline.open()
        assert await deadline.first(after(1.5), "no answer") == "frame"


# ---------------------------------------------------------------- what cancels what


@virtually
async def test_whoever_cancels_a_call_gets_the_cancellation() -> None:
    async def call() -> None:
        with Deadline(TIMING, "birch") as deadline:
            await deadline.next(after(60), NOTHING)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(call())
        await asyncio.sleep(0.05)
        task.cancel()
    assert task.cancelled()
    assert now() == 0.05


@virtually
async def test_a_call_that_is_cancelled_at_the_moment_when_it_is_overdue_gets_the_cancellation() -> None:
    async def call() -> None:
        with Deadline(TIMING, "birch") as deadline:
            await deadline.next(after(60), NOTHING)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(call())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_at(TIMING.stall, task.cancel)
    assert task.cancelled()
    assert now() == TIMING.stall


@virtually
async def test_what_is_waited_for_while_a_cancelled_call_is_cleaned_up_can_be_overdue_too() -> None:
    said: list[tuple[str, float]] = []

    async def call() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            with Deadline(TIMING, "birch") as deadline:
                said.append(await overdue(deadline.next(after(60), NOTHING)))
                assert cancelling() == 1

    async with asyncio.TaskGroup() as group:
        task = group.create_task(call())
        await asyncio.sleep(0.5)
        task.cancel()
    assert task.cancelled()
    assert said == [("birch: nothing more came for 1 s", 1.5)]


@virtually
async def test_a_frame_that_came_at_the_last_moment_counts_and_leaves_no_cancellation_behind() -> None:
    async def stubborn() -> str:
        try:
            return await after(60)
        except asyncio.CancelledError:
            return "late frame"

    with Deadline(TIMING, "birch") as deadline:
        assert await deadline.next(stubborn(), NOTHING) == "late frame"
        assert cancelling() == 0
        assert await deadline.next(after(0.5), NOTHING) == "frame"


@virtually
async def test_an_error_of_what_is_waited_for_comes_out_as_it_is() -> None:
    async def fail(when: float) -> None:
        try:
            await asyncio.sleep(when)
        except asyncio.CancelledError:
            raise PeerUnreachable("birch", "gone late") from None
        raise PeerUnreachable("birch", "gone")

    with Deadline(TIMING, "birch") as deadline:
        for when, why in ((0.0, "gone"), (60.0, "gone late")):
            with pytest.raises(PeerUnreachable, match=f"^birch: {why}$") as caught:
                await deadline.next(fail(when), NOTHING)
            assert not isinstance(caught.value, Overdue)
            assert cancelling() == 0


# ---------------------------------------------------------------- one timer


@virtually
async def test_hundreds_of_frames_set_one_timer_which_rings_once_in_a_stall_window() -> None:
    loop = asyncio.get_running_loop()
    with Deadline(TIMING, "birch") as deadline:
        timers = set()
        for _ in range(300):
            moment: asyncio.Future[None] = loop.create_future()
            loop.call_soon(moment.set_result, None)
            await deadline.next(moment, NOTHING)
            timers.add(deadline._timer)
        assert len(timers) == 1
        for _ in range(2):
            await deadline.next(after(0.75), NOTHING)
            timers.add(deadline._timer)
        assert len(timers) == 2, "it rang at 1 s, looked at the clock, and was set for what was waited for then"
        assert None not in timers


@virtually
async def test_an_earlier_deadline_is_kept_though_a_later_one_was_set_before() -> None:
    with Deadline(TIMING, "birch") as deadline:
        await deadline.first(after(0), "no answer")
        assert await overdue(deadline.next(after(60), NOTHING)) == ("birch: nothing more came for 1 s", 1.0)


@virtually
async def test_a_timer_that_rings_between_two_waits_cancels_nothing() -> None:
    with Deadline(TIMING, "birch") as deadline:
        await deadline.next(after(0), NOTHING)
        await asyncio.sleep(5)
        assert cancelling() == 0
        assert await overdue(deadline.next(after(60), NOTHING)) == ("birch: nothing more came for 1 s", 6.0)


@virtually
async def test_a_deadline_that_is_closed_leaves_no_timer() -> None:
    deadline = Deadline(TIMING, "birch")
    with deadline:
        await deadline.next(after(0), NOTHING)
        timer = deadline._timer
        assert timer is not None
    assert deadline._timer is None
    assert timer.cancelled()
    deadline.close()
    assert now() == 0
