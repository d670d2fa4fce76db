"""Events as JSON, one object per line, and back: an envelope that says who, when and which format, then the fields."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

from peerlearn import schema
from peerlearn.errors import ConfigError, StateError
from peerlearn.events.kinds import KINDS, Event, Unknown
from peerlearn.text import one_line

SCHEMA = 1
"""Version of this format. A new event, or a field with a default, does not change it."""

ENVELOPE: Mapping[str, str] = {
    "kind": "which event it is",
    "schema": f"version of the event format: {SCHEMA}",
    "source": "id of the peer that states the event; empty before its identity is known",
    "source_name": "name of that peer",
    "time": "wall clock: UTC, ISO 8601 with milliseconds",
    "t": "monotonic clock: seconds since the sink was made",
}
"""The keys that every event has in JSON, and their meaning. No event has a field of such a name."""

_EPOCH = datetime.fromtimestamp(0, UTC)
_SHOWN = 60
"""Characters of a broken line that its error shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """An event and its envelope."""

    event: Event
    source: str = ""
    """Id of the peer that stated it; empty before its identity is known."""
    source_name: str = ""
    """Name of that peer."""
    time: datetime = field(default=_EPOCH)
    """When, by the wall clock, in UTC; written to the millisecond."""
    t: float = 0.0
    """When, by the monotonic clock: seconds since the sink was made; written to a tenth of a millisecond."""
    schema: int = SCHEMA
    """Version of the format that it was written in."""


def as_json(recorded: Recorded) -> str:
    """One line: the envelope first, then the event's fields. NaN and infinities become null."""
    event = recorded.event
    own = event.fields if isinstance(event, Unknown) else {f.name: getattr(event, f.name) for f in fields(event)}
    row = {
        "kind": event.called if isinstance(event, Unknown) else event.kind,
        "schema": recorded.schema,
        "source": recorded.source,
        "source_name": recorded.source_name,
        "time": _written(recorded.time),
        "t": round(recorded.t, 4),
        **own,
    }
    return json.dumps(_plain(row), allow_nan=False)


def from_json(line: str, *, also: Iterable[type[Event]] = ()) -> Recorded:
    """The event of a line that `as_json` wrote, as its class; null where a number belongs becomes NaN.

    `also`: classes of an app's own. A kind that is neither of ours nor among them becomes `Unknown`, and so does an
    event of a newer format that no longer fits its class; fields that the class does not have are left out. Raises
    StateError, with the line, for what is no event.
    """
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ConfigError("it is not an object")
        return _recorded(row, {kind.kind: kind for kind in (*KINDS, *also)})
    except (ValueError, OverflowError, RecursionError, ConfigError) as exc:
        raise StateError(f"{one_line(line, _SHOWN)!r} is no event: {exc}") from exc


def read_events(path: Path, *, also: Iterable[type[Event]] = ()) -> Iterator[Recorded]:
    """The events of a JSONL file, in order; a last line that was cut short by the end of its process is left out.

    `also` as in `from_json`. Raises StateError, with the number of the line, for one that is no event.
    """
    kinds = tuple(also)
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith("\n"):
                    return
                try:
                    yield from_json(line, also=kinds)
                except StateError as exc:
                    raise StateError(f"{path}, line {number}: {exc}") from exc
    except OSError as exc:
        raise StateError(f"cannot read {path}: {exc.strerror}; make it readable by this user") from exc


def _recorded(row: dict[str, Any], kinds: Mapping[str, type[Event]]) -> Recorded:
    """Raises ConfigError for what is missing or of another type."""
    for key in ENVELOPE:
        if key not in row:
            raise ConfigError(f"{key!r} is missing")
    kind, version = schema.value_of(str, row["kind"], "kind"), schema.value_of(int, row["schema"], "schema")
    own = {key: value for key, value in row.items() if key not in ENVELOPE}
    event: Event = Unknown(called=kind, fields=own)
    if kind in kinds:
        try:
            event = _event(kinds[kind], own)
        except ConfigError:
            if version <= SCHEMA:
                raise
    return Recorded(
        event=event,
        source=schema.value_of(str, row["source"], "source"),
        source_name=schema.value_of(str, row["source_name"], "source_name"),
        time=_read_time(schema.value_of(str, row["time"], "time")),
        t=schema.value_of(float, row["t"], "t"),
        schema=version,
    )


def _event(kind: type[Event], own: Mapping[str, Any]) -> Event:
    hints = get_type_hints(kind)
    names = [f.name for f in fields(kind)]
    return schema.read(kind, {name: _with_nan(hints[name], own[name]) for name in names if name in own}, kind.kind)


def _with_nan(hint: Any, value: Any) -> Any:
    """Null is how NaN was written, where a number is meant."""
    if hint is float and value is None:
        return float("nan")
    if isinstance(value, Mapping) and get_origin(hint) is not None and get_args(hint)[-1] is float:
        return {key: _with_nan(float, item) for key, item in value.items()}
    return value


def _written(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _read_time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ConfigError(f"time: {text!r} does not say in which zone")
    return time.astimezone(UTC)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    return cast("object", value)
