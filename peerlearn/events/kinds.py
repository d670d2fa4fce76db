"""Facts that a peer states while it runs: frozen events, and where they go. Nobody reads events to decide."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, TextIO, TypeVar

from peerlearn.errors import StateError


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    kind: ClassVar[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    kind = "started"
    name: str
    id: str
    address: str
    strategy: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerChanged(Event):
    """Somebody was confirmed, became suspect, came back, left (goodbye), is gone (silence), or lives on at another
    address (moved)."""

    kind = "peer"
    peer: str
    name: str
    status: str
    address: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided(Event):
    """A decision and its reason, in one line for people."""

    kind = "decided"
    round: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfit(Event):
    """This provider cannot teach this peer by its method at all; said once per card."""

    kind = "unfit"
    provider: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseStarted(Event):
    kind = "phase"
    round: int
    phase: str
    providers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched(Event):
    """An answer came. `not_modified`: the knowledge held is still the latest."""

    kind = "fetched"
    round: int
    provider: str
    version: int
    received_bytes: int
    sent_bytes: int
    body_bytes: int
    seconds: float
    codec: str = ""
    not_modified: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchFailed(Event):
    kind = "fetch-failed"
    round: int
    provider: str
    why: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained(Event):
    """A local or transfer span ended."""

    kind = "trained"
    round: int
    phase: str
    steps: int
    samples: int
    loss: float
    seconds: float
    providers: tuple[str, ...] = ()
    notes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gated(Event):
    """A transfer was measured on held-out data, and kept or rolled back."""

    kind = "gated"
    round: int
    before: float
    after: float
    kept: bool
    why: str
    providers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined(Event):
    """This provider's knowledge keeps doing harm, or makes no sense: it is not used until the provider has published
    version `until`, or begins another session. Its owner has been told why, if it could be reached."""

    kind = "quarantined"
    round: int
    provider: str
    why: str
    until: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint(Event):
    """Another peer has put this one aside, and says why: its words, cut and without control characters."""

    kind = "complaint"
    by: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated(Event):
    kind = "evaluated"
    round: int
    phase: str
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published(Event):
    kind = "published"
    round: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered(Event):
    kind = "answered"
    consumer: str
    want: str
    version: int
    body_bytes: int
    seconds: float
    not_modified: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Event):
    kind = "refused"
    consumer: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved(Event):
    kind = "saved"
    round: int
    path: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveFailed(Event):
    """Nothing was kept; learning and the attempts go on. Said once, until a save succeeds or fails otherwise."""

    kind = "save-failed"
    round: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed(Event):
    """A saved run goes on. `why`: what was wrong with a checkpoint that had to be passed over, or nothing."""

    kind = "resumed"
    round: int
    version: int
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped(Event):
    kind = "stopped"
    round: int
    why: str


Record = Callable[[Event], None]
E = TypeVar("E", bound=Event)


class Sink(Protocol):
    """Called on the event loop, and from the learner's thread; must not block for long."""

    def __call__(self, event: Event) -> None: ...


class MemorySink:
    """Keeps events in a list: for tests and notebooks."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]


def as_json(event: Event, *, seconds: float) -> str:
    """One line: kind and time first, then the event's fields. NaN and infinities become null."""
    row: dict[str, Any] = {"kind": event.kind, "t": round(seconds, 4)}
    row.update((f.name, getattr(event, f.name)) for f in fields(event))
    return json.dumps(_plain(row), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    return value


class JsonlSink:
    """Appends one JSON object per event to a stream; `t` is seconds since the sink was made, monotonic."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._start = time.monotonic()

    @classmethod
    def open(cls, path: Path) -> "JsonlSink":
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return cls(path.open("a", encoding="utf-8", buffering=1))
        except OSError as exc:
            raise StateError(f"cannot write events to {path}: {exc.strerror}; choose another directory") from exc

    def __call__(self, event: Event) -> None:
        self._stream.write(as_json(event, seconds=time.monotonic() - self._start) + "\n")

    def close(self) -> None:
        self._stream.close()


class Tee:
    """Sends every event to several sinks, in order."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks

    def __call__(self, event: Event) -> None:
        for sink in self._sinks:
            sink(event)


def discard(event: Event) -> None:
    """The sink of those who do not record."""
