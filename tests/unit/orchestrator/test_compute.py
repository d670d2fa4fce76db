"""The learner's thread: one call at a time, and a cancellation that ends its own call and nothing else."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from peerlearn.orchestrator.training.compute import OwnThread


class Interrupted(Exception):
    """As the learner's: raised between two steps."""


class Training:
    """Steps until it is told to stop, as a span of training does."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.ended_by: list[str] = []

    def steps(self, seconds: float) -> str:
        if self.stop.wait(seconds):
            self.stop.clear()
            self.ended_by.append("interruption")
            raise Interrupted
        self.ended_by.append("itself")
        return "trained"


@pytest.fixture
async def trained() -> AsyncIterator[tuple[Training, OwnThread]]:
    training = Training()
    thread = OwnThread("test:learner", interrupt=training.stop.set, go_on=training.stop.clear)
    yield training, thread
    await thread.close()


async def test_cancelling_a_call_that_waits_leaves_the_one_that_runs_alone(trained: tuple[Training, OwnThread]) -> None:
    training, thread = trained
    ran = threading.Event()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(thread.run(training.steps, 0.3))
        await asyncio.sleep(0.05)
        waiting = asyncio.ensure_future(thread.run(ran.set))  # noqa: TID251  awaited below
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert running.result() == "trained"
    assert training.ended_by == ["itself"]
    await thread.run(lambda: None)
    assert not ran.is_set(), "what was cancelled before its turn never ran"


async def test_cancelling_the_call_that_runs_interrupts_it_and_not_the_next_one(
    trained: tuple[Training, OwnThread],
) -> None:
    training, thread = trained
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(thread.run(training.steps, 60))
        await asyncio.sleep(0.05)
        second = tasks.create_task(thread.run(training.steps, 0.05))
        first.cancel()
    assert second.result() == "trained"
    assert training.ended_by == ["interruption", "itself"]


async def test_an_interruption_that_met_nothing_is_withdrawn_before_the_next_call_begins(
    trained: tuple[Training, OwnThread],
) -> None:
    """A prediction does not look at it: it ends by itself, and the span that follows at once is not its business."""
    training, thread = trained
    for _ in range(50):
        release = threading.Event()
        async with asyncio.TaskGroup() as tasks:
            deaf = tasks.create_task(thread.run(release.wait))
            await asyncio.sleep(0)
            following = tasks.create_task(thread.run(training.steps, 0.001))
            await asyncio.sleep(0.001)
            deaf.cancel()
            await asyncio.sleep(0)
            release.set()
        assert following.result() == "trained"


async def test_nothing_runs_any_more_when_the_cancellation_goes_on(trained: tuple[Training, OwnThread]) -> None:
    training, thread = trained
    task = asyncio.ensure_future(thread.run(training.steps, 60))  # noqa: TID251  awaited below
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert training.ended_by == ["interruption"]


async def test_stop_iteration_is_an_error_and_not_a_hang(trained: tuple[Training, OwnThread]) -> None:
    _, thread = trained
    with pytest.raises(RuntimeError, match="StopIteration"):
        async with asyncio.timeout(5):
            await thread.run(next, iter(()))
