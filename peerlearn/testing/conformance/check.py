"""One promise, made into a call that fails when it is broken."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Check:
    """Raises AssertionError, in one sentence, when a promise is broken. Run it outside an event loop."""

    name: str
    promise: str
    """What is promised, in a sentence."""
    _run: Callable[[], Awaitable[None] | None]

    def __call__(self) -> None:
        """Run it, in an event loop of its own where the promise is about asynchronous calls."""
        running = self._run()
        if inspect.iscoroutine(running):
            asyncio.run(running)

    def __str__(self) -> str:
        return self.name


def checks_of(laws: Iterable[Callable[[T], Awaitable[None] | None]], subject: T) -> tuple[Check, ...]:
    """One check for each law, named as its function, with its docstring as the promise."""
    return tuple(_check(law, subject) for law in laws)


def _check(law: Callable[[T], Awaitable[None] | None], subject: T) -> Check:
    name = getattr(law, "__name__", repr(law))
    return Check(name.replace("_", "-"), inspect.getdoc(law) or name, lambda: law(subject))


def require(holds: object, sentence: str) -> None:
    """Raises AssertionError with this sentence unless it holds."""
    if not holds:
        raise AssertionError(sentence)


@contextmanager
def raises(kind: type[Exception], sentence: str) -> Iterator[list[Exception]]:
    """Raises AssertionError with this sentence unless the block raises an error of this kind, and yields it."""
    caught: list[Exception] = []
    try:
        yield caught
    except kind as exc:
        caught.append(exc)
    else:
        raise AssertionError(sentence)
