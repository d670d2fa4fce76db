"""Tasks that live as long as a block, with its exception handed on unchanged; and a way to wake tasks that wait."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
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
    cause: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            tasks = Background(group)
            try:
                yield tasks
            finally:
                tasks.cancel()
    except BaseExceptionGroup as caught:
        cause = sole_cause(caught)
        if cause is not caught:
            caught.__traceback__ = None  # its frame in asyncio holds the group, which holds it
    try:
        if cause is not None:
            raise cause  # not within the handling of its group: each would hold the other
    finally:
        del cause  # it holds this frame


class Notifier:
    """Wakes every task that waits, once. No wake-up is lost between a check and a wait without an await between."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wake all that wait now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Return after the next `notify`."""
        await self._event.wait()


def sole_cause(
    caught: BaseExceptionGroup[BaseException], *, besides: type[BaseException] | tuple[type[BaseException], ...] = ()
) -> BaseException:
    """The one exception inside, however deep; the group itself when there are several.

    `besides`: those that only follow from another do not count, as long as there is another.
    """
    leaves = list(_leaves(caught))
    causes = [leaf for leaf in leaves if not isinstance(leaf, besides)] or leaves[:1]
    return causes[0] if len(causes) == 1 else caught


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc
