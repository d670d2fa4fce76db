"""An event loop with a virtual clock: it never waits, but jumps to the next timer. It has no threads, files or sockets.

The order of everything is deterministic. Timers for the same time run in the order in which they were set. Tasks in
sets, as asyncio keeps them, come in the order in which they were made.
"""

import asyncio
import heapq
import itertools
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar, TypeVarTuple, cast
from weakref import WeakSet

from peerlearn.errors import PeerlearnError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_MOST_AT_ONCE = 2_000_000
"""Callbacks without any movement of the clock, after which the run is considered stuck. Far more than any real moment
has."""
_DEAD_TIMERS = 1000
"""Cancelled timers kept before the heap is rebuilt; fewer would rebuild it too often."""

Ready = tuple[asyncio.Handle, Context]
"""A callback that is due, and its context."""


class StandstillError(PeerlearnError):
    """Nothing is left that could ever happen, or callbacks go on without any movement of the clock."""


class Machine:
    """Everything on one machine can be frozen together, like a laptop that sleeps. `slept`: seconds of completed sleep;
    `held`: callbacks that are due when it wakes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asleep_since: float | None = None
        self.slept = 0.0
        self.held: deque[Ready] = deque()

    def slept_by(self, now: float) -> float:
        """Seconds of sleep up to `now`, a sleep in progress included."""
        return self.slept + (now - self.asleep_since if self.asleep_since is not None else 0.0)


_MACHINE: ContextVar[Machine | None] = ContextVar("machine", default=None)
"""The machine on which the present task runs; None: outside all machines."""


def on(machine: Machine) -> Context:
    """A context for tasks on this machine. Everything that they start runs there too."""
    context = copy_context()
    context.run(_MACHINE.set, machine)
    return context


class _Task(asyncio.Task[Any]):
    """A task hashed by its number. asyncio keeps tasks in sets, and their order would otherwise depend on memory
    addresses."""

    _numbers = itertools.count()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._number = next(self._numbers)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class _Timer(asyncio.TimerHandle):
    _scheduled: bool
    """asyncio's own flag: a timer that is cancelled while this is set reports to the loop, which can then drop it."""


class VirtualLoop(asyncio.BaseEventLoop):
    """For `asyncio.Runner(loop_factory=VirtualLoop)`. Calls that would wait for the real world raise
    NotImplementedError; calls for a thread run at once, on the loop.

    `failures` lists the uncaught exceptions that asyncio would have logged.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._due: deque[Ready] = deque()
        self._timers: list[tuple[float, int, _Timer, Context]] = []
        self._numbers = itertools.count()
        self._dead_timers = 0
        self._asleep = 0
        self._turning = self._stopping = self._shut = False
        self._generators: WeakSet[Any] = WeakSet()
        self._thread = threading.get_ident()
        self.failures: list[str] = []
        self.callbacks = self._since = 0
        """Number of callbacks run, and that number when the clock last moved."""
        _Task._numbers = itertools.count()

    # ---------------------------------------------------------------- machines

    def freeze(self, machine: Machine) -> None:
        """Stop everything on this machine. What is due there runs when it wakes."""
        if machine.asleep_since is None:
            machine.asleep_since = self._now
            self._asleep += 1

    def thaw(self, machine: Machine) -> None:
        """Wake a machine. Everything that became due meanwhile runs now, in order."""
        if machine.asleep_since is not None:
            machine.slept += self._now - machine.asleep_since
            machine.asleep_since = None
            self._asleep -= 1
            self._due.extend(machine.held)
            machine.held.clear()

    # ---------------------------------------------------------------- the clock and what it drives

    def time(self) -> float:
        return self._now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self._check_open()
        context = context if context is not None else copy_context()
        handle = asyncio.Handle(callback, args, self, context)
        self._due.append((handle, context))
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if threading.get_ident() != self._thread:
            raise RuntimeError("a thread calls into a simulation: what it does cannot be repeated")
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        self._check_open()
        context = context if context is not None else copy_context()
        timer = _Timer(when, callback, args, self, context)
        timer._scheduled = True
        heapq.heappush(self._timers, (when, next(self._numbers), timer, context))
        return timer

    def _timer_handle_cancelled(self, timer: asyncio.TimerHandle) -> None:
        self._dead_timers += 1
        if self._dead_timers > _DEAD_TIMERS and 2 * self._dead_timers > len(self._timers):
            self._timers = [entry for entry in self._timers if not entry[2].cancelled()]
            heapq.heapify(self._timers)
            self._dead_timers = 0

    def _run_once(self) -> None:
        if not self._due:
            self._jump()
        timers = self._timers
        while timers and timers[0][0] <= self._now:
            _, _, timer, context = heapq.heappop(timers)
            timer._scheduled = False
            if timer.cancelled():
                self._dead_timers = max(0, self._dead_timers - 1)
            else:
                self._due.append((timer, context))
        for _ in range(len(self._due)):
            handle, context = self._due.popleft()
            if handle.cancelled():
                continue
            if self._asleep and (machine := context.get(_MACHINE)) and machine.asleep_since is not None:
                machine.held.append((handle, context))
                continue
            self.callbacks += 1
            handle._run()
        if self.callbacks - self._since > _MOST_AT_ONCE:
            raise StandstillError(f"at {self._now:.3f} s there is no end of things to do, and the clock stands still")

    def _jump(self) -> None:
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)[2]._scheduled = False
            self._dead_timers = max(0, self._dead_timers - 1)
        if not self._timers:
            raise StandstillError(
                f"at {self._now:.3f} s everybody waits, and nothing is due: for a thread, a socket, or for ever"
            )
        if (when := self._timers[0][0]) > self._now:
            self._now, self._since = when, self.callbacks

    # ---------------------------------------------------------------- running, as asyncio.Runner drives it

    def run_forever(self) -> None:
        self._check_open()
        if self._turning:
            raise RuntimeError("this loop is running already")
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._generators.add, finalizer=self._finalize)
        self._turning = True
        asyncio._set_running_loop(self)
        try:
            while not self._stopping:
                self._run_once()
        finally:
            self._turning = self._stopping = False
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)

    def run_until_complete(self, future: Generator[Any, None, T] | Awaitable[T]) -> T:
        task = asyncio.ensure_future(cast("Awaitable[T]", future), loop=self)  # noqa: TID251  this is the loop itself
        task.add_done_callback(self._ended)
        try:
            self.run_forever()
        finally:
            task.remove_done_callback(self._ended)
        if not task.done():
            raise RuntimeError("the loop was stopped before this was done")
        return task.result()

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopping = True

    def is_running(self) -> bool:
        return self._turning

    def is_closed(self) -> bool:
        return self._shut

    def close(self) -> None:
        self._shut = True
        self._due.clear()
        self._timers.clear()

    def _check_open(self) -> None:
        if self._shut:
            raise RuntimeError("this loop is closed")

    def _finalize(self, generator: Any) -> None:
        if not self._shut:
            self.create_task(generator.aclose())

    async def shutdown_asyncgens(self) -> None:
        for generator in list(self._generators):
            await generator.aclose()

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """There is no executor."""

    # ---------------------------------------------------------------- tasks, futures, exceptions

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Coroutine[Any, Any, T] | Any, *, name: object = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        self._check_open()
        return _Task(coro, loop=self, name=None if name is None else str(name), context=context)

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Run the function at once, on the loop: a thread's timing would not be repeatable."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as exc:  # noqa: BLE001  raised where the future is awaited
            future.set_exception(exc)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        exc = context.get("exception")
        self.failures.append(f"{context.get('message', 'failure')}: {exc!r}" if exc else str(context.get("message")))

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def get_exception_handler(self) -> None:
        return None

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        """There is no debug mode."""
