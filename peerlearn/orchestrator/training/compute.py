"""Where training runs: one dedicated thread per learner, or inline under a virtual clock."""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Compute(Protocol):
    """Runs one call at a time. When the waiting task is cancelled, the call is interrupted and *has ended* before the
    cancellation goes on: nothing touches the model after its peer has left."""

    async def run(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T: ...

    async def close(self) -> None: ...


class OwnThread:
    """One thread of its own, so that the event loop stays free and the learner needs no lock.

    `interrupt` makes the call under way end soon, if it can; `go_on` withdraws that once the call has ended.
    """

    def __init__(
        self, name: str, *, interrupt: Callable[[], None] = lambda: None, go_on: Callable[[], None] = lambda: None
    ) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._interrupt = interrupt
        self._go_on = go_on

    async def run(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        call = functools.partial(func, *args, **kwargs)
        future = asyncio.get_running_loop().run_in_executor(self._executor, call)
        try:
            return await asyncio.shield(future)
        finally:
            if not future.done():
                self._interrupt()
                await asyncio.wait([future])
                future.exception()  # retrieved: the interruption is our own doing
                self._go_on()

    async def close(self) -> None:
        await asyncio.to_thread(self._executor.shutdown)


class Inline:
    """On the loop itself: for simulation, where a virtual clock stands still while a step computes."""

    async def run(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return func(*args, **kwargs)

    async def close(self) -> None:
        return None
