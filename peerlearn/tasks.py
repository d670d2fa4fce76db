"""Tasks that live as long as a block, and a way to wake waiting tasks. Exceptions leave the block unchanged."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

from peerlearn.errors import IdentityError, InvariantBroken

log = logging.getLogger("peerlearn")

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before supervised work is restarted; doubled with each failure, up to the second value. The pause keeps work
that fails at once from using up a core."""


class Background:
    """The tasks of one block. A task that fails ends the block, unless it is supervised."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Start a task that ends with the block at the latest. If it fails, the block fails."""
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def supervise(self, work: Callable[[], Coroutine[Any, Any, None]], *, name: str, lost: str) -> asyncio.Task[None]:
        """Start work whose failure does not end the block. A failure is logged once per kind of error, together with
        what is `lost` meanwhile; after a pause the work starts again. IdentityError and InvariantBroken end the block
        all the same."""
        return self.start(_supervised(work, name, lost), name=name)

    def cancel(self) -> None:
        """Cancel all tasks that run now."""
        for task in tuple(self._tasks):
            task.cancel()


async def _supervised(work: Callable[[], Coroutine[Any, Any, None]], name: str, lost: str) -> None:
    said: set[type[Exception]] = set()
    pause = FIRST_PAUSE
    while True:
        try:
            return await work()
        except (IdentityError, InvariantBroken):  # another process has our identity; a simulation found a bug
            raise
        except Exception as exc:
            if type(exc) not in said:
                said.add(type(exc))
                log.warning("%s failed and begins anew; meanwhile %s: %s: %s", name, lost, type(exc).__name__, exc)
                log.debug("in %s", name, exc_info=exc)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


@asynccontextmanager
async def background() -> AsyncIterator[Background]:
    """A block of tasks. Leaving it cancels the tasks and waits for them.

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
            caught.__traceback__ = None  # breaks the cycle traceback -> asyncio's frame -> group -> traceback
    try:
        if cause is not None:
            raise cause  # outside the `except` block: otherwise it and its group would hold each other
    finally:
        del cause  # its traceback holds this frame


class Notifier:
    """Wakes all waiting tasks at once. A task that checks its condition and then waits, without an await in between,
    misses no notification."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wake all tasks that wait now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Return after the next `notify`."""
        await self._event.wait()


def sole_cause(
    caught: BaseExceptionGroup[BaseException], *, besides: type[BaseException] | tuple[type[BaseException], ...] = ()
) -> BaseException:
    """The one exception inside a group, however deep; the group itself when there are several.

    `besides`: exceptions that only follow from others. They do not count when there are others.
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
