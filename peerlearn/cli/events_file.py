"""The events file of a peer that runs unwatched: a full disk costs events, never the peer."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from peerlearn.errors import StateError
from peerlearn.events import Event, JsonlSink, Sink

_AGAIN = 10.0
"""Seconds after which a file that could not be written is tried again."""


@contextlib.contextmanager
def events_file(path: Path, warn: Callable[[str], None]) -> Iterator[Sink]:
    """A sink until the block is left. Raises StateError when the file cannot be opened at the start."""
    keeper = _Keeper(path, warn)
    try:
        yield keeper
    finally:
        keeper.close()


class _Keeper:
    """The sink. After a failure it drops events, and opens the file again after a while."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self._path = path
        self._warn = warn
        self._sink: JsonlSink | None = JsonlSink.open(path)
        self._clerk = self._sink.clerk
        self._failed = 0.0

    def __call__(self, event: Event) -> None:
        if self._sink is None and time.monotonic() - self._failed < _AGAIN:
            return
        try:
            if self._sink is None:
                self._sink = JsonlSink.open(self._path)
                self._sink.clerk = self._clerk
            self._sink(event)
        except (OSError, StateError) as exc:
            why = exc.strerror if isinstance(exc, OSError) else exc
            self._warn(f"events are lost until {self._path} can be written again: {why}")
            self._failed = time.monotonic()
            self.close()

    def close(self) -> None:
        if self._sink is not None:
            with contextlib.suppress(OSError):
                self._sink.close()
            self._sink = None
