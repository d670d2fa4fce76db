"""Compute: runs torch code on one dedicated thread, or inline on the event loop under a virtual clock."""

import asyncio
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Compute(Protocol):
    """Runs one call at a time. When a waiting task is cancelled, its call is interrupted, and the cancellation goes on
    only once the call has ended: nothing touches the model after its peer has left."""

    async def run(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the call and return its result, or raise its exception. Called on the event loop."""
        ...

    async def close(self) -> None:
        """Wait for the call under way, and release the thread if there is one."""
        ...


@dataclass(slots=True, eq=False)
class _Call(Generic[T]):
    """One call that waits for the thread, or runs there."""

    func: Callable[[], T]
    withdrawn: bool = False
    result: T = field(init=False)


class OwnThread:
    """Runs calls on one thread of its own, so that the event loop stays free and the learner needs no lock.

    `interrupt` asks the running call to end soon; `go_on` withdraws the request. A task that is cancelled affects its
    own call only: a call that still waits for the thread never runs, and a running one is interrupted without harm to
    the call after it.
    """

    def __init__(
        self, name: str, *, interrupt: Callable[[], None] = lambda: None, go_on: Callable[[], None] = lambda: None
    ) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._interrupt = interrupt
        self._go_on = go_on
        self._turn = threading.Lock()
        """Guards `_running` and `_interrupted`, which the event loop and the thread both write."""
        self._running: object = None
        self._interrupted = False

    async def run(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the call on the thread, after all earlier ones; see `Compute.run`."""
        call = _Call(functools.partial(func, *args, **kwargs))
        future = asyncio.get_running_loop().run_in_executor(self._executor, self._perform, call)
        try:
            await asyncio.shield(future)
        finally:
            if not future.done() and not self._withdraw(call):
                await asyncio.wait([future])
                future.exception()  # retrieved, so that asyncio does not log an interruption that we asked for
        return call.result

    def _perform(self, call: "_Call[Any]") -> None:
        """Run one call, on the thread."""
        with self._turn:
            if call.withdrawn:
                return
            self._running = call
        try:
            call.result = call.func()
        except StopIteration as exc:  # a future cannot hold it (PEP 479): the task would wait for ever
            raise RuntimeError("the function ended by StopIteration: give next() a default, or catch it") from exc
        finally:
            with self._turn:
                self._running = None
                if self._interrupted:
                    self._interrupted = False
                    self._go_on()

    def _withdraw(self, call: "_Call[Any]") -> bool:
        """Take a call back, so that it never begins. A call that runs already is interrupted instead, and the answer is
        False: it has to be waited for."""
        with self._turn:
            if self._running is call:
                self._interrupted = True
                self._interrupt()
                return False
            call.withdrawn = True
            return True

    async def close(self) -> None:
        """Wait for the call under way, and then end the thread."""
        await asyncio.to_thread(self._executor.shutdown)


class Inline:
    """Runs calls on the event loop itself: for simulation, where the virtual clock stands still during a call."""

    async def run(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the call here and now."""
        return func(*args, **kwargs)

    async def close(self) -> None:
        """Do nothing: there is no thread."""
        return None
