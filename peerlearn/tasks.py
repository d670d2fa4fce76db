"""Tasks that live as long as a block: ended with it, and its exception comes out as it went in."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


class Background:
    """The tasks of one block. A task that fails ends the block."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def cancel(self) -> None:
        """End all that run now."""
        for task in tuple(self._tasks):
            task.cancel()


@asynccontextmanager
async def background() -> AsyncIterator[Background]:
    """Leaving the block cancels its tasks and waits for them.

    A sole exception, of the block or of one task, is raised as itself; several at once stay a group.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = Background(group)
            try:
                yield tasks
            finally:
                tasks.cancel()
    except BaseExceptionGroup as caught:
        raise _sole(caught) from None


def _sole(caught: BaseExceptionGroup[BaseException]) -> BaseException:
    cause: BaseException = caught
    while isinstance(cause, BaseExceptionGroup):
        if len(cause.exceptions) != 1:
            return caught
        cause = cause.exceptions[0]
    return cause
