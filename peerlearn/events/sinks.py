"""Where events go: a list, a stream of JSON lines, several sinks at once, or nowhere."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, TextIO, TypeVar

from peerlearn.errors import StateError
from peerlearn.events.kinds import Event, Opening
from peerlearn.events.lines import Recorded, as_json

Record = Callable[[Event], None]
"""Takes one event. Called on the event loop and on the learner's thread."""

E = TypeVar("E", bound=Event)


class Sink(Protocol):
    """Takes events, on the event loop and on the learner's thread; must not block for long."""

    def __call__(self, event: Event, /) -> None: ...


class MemorySink:
    """Keeps events in a list: for tests and notebooks."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        """All events so far, in order."""

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[E]) -> list[E]:
        """The events of one class, in order."""
        return [event for event in self.events if isinstance(event, kind)]


@dataclass(slots=True)
class Clerk:
    """Puts the envelope on events of one peer: who states them, which `Opening` says, and when."""

    source: str = ""
    """Id of the peer; empty before `Opening`."""
    source_name: str = ""
    """Name of the peer."""
    start: float = field(default_factory=time.monotonic)
    """Monotonic seconds from which `t` counts."""

    def recorded(self, event: Event) -> Recorded:
        """This event, stated now."""
        if isinstance(event, Opening):
            self.source, self.source_name = event.id, event.name
        return Recorded(
            event=event, source=self.source, source_name=self.source_name, time=datetime.now(UTC),
            t=time.monotonic() - self.start,
        )  # fmt: skip


class JsonlSink:
    """Appends one JSON object per event to a stream; `docs/events.md` lists its keys."""

    def __init__(self, stream: TextIO, *, source_name: str = "") -> None:
        """`source_name`: name of the peer in events before its `Opening`."""
        self._stream = stream
        self.clerk = Clerk(source_name=source_name)
        """What puts the envelope on each event."""

    @classmethod
    def open(cls, path: Path, *, source_name: str = "") -> "JsonlSink":
        """A sink that appends to this file; its folder is made. Raises StateError."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return cls(path.open("a", encoding="utf-8", buffering=1), source_name=source_name)
        except OSError as exc:
            raise StateError(f"cannot write events to {path}: {exc.strerror}; choose another directory") from exc

    def __call__(self, event: Event) -> None:
        """Raises OSError when the stream takes nothing."""
        self._stream.write(as_json(self.clerk.recorded(event)) + "\n")

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()


class Tee:
    """Sends every event to several sinks, in order."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks

    def __call__(self, event: Event) -> None:
        for sink in self._sinks:
            sink(event)


discard: Record = deque[Event](maxlen=0).append
"""The sink of a peer that does not record: a queue without room, so that an event costs no Python call."""
