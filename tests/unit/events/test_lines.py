"""Events as JSON: every class comes back as it was, what is newer is tolerated, what is broken is named."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peerlearn import events
from peerlearn.errors import StateError
from peerlearn.events import (
    ENVELOPE,
    KINDS,
    SCHEMA,
    Event,
    Opening,
    PeerChanged,
    Recorded,
    Trained,
    Unknown,
    as_json,
    from_json,
    kinds,
    read_events,
)

NAMES = st.text(max_size=8)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=30),
    int: st.integers(-(2**63), 2**63),
    float: st.floats(),
    bool: st.booleans(),
    tuple[str, ...]: st.lists(NAMES, max_size=3).map(tuple),
    Mapping[str, float]: st.dictionaries(NAMES, st.floats(), max_size=3),
}


def any_of(kind: type[Event]) -> st.SearchStrategy[Event]:
    hints = get_type_hints(kind)
    return st.builds(kind, **{each.name: VALUES[hints[each.name]] for each in fields(kind)})


TIMES = st.datetimes(datetime(1970, 1, 2), datetime(2999, 1, 1), timezones=st.just(UTC)).map(
    lambda time: time.replace(microsecond=time.microsecond // 1000 * 1000)
)
RECORDED = st.builds(
    Recorded,
    event=st.one_of(*map(any_of, KINDS)),
    source=NAMES,
    source_name=NAMES,
    time=TIMES,
    t=st.integers(0, 10**12).map(lambda tenths: tenths / 10_000),
)


def finite(value: Any) -> Any:
    """NaN and infinities are one in JSON."""
    if isinstance(value, float):
        return value if math.isfinite(value) else "none"
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return value


def told(recorded: Recorded) -> Any:
    event = recorded.event
    own = {each.name: finite(getattr(event, each.name)) for each in fields(event)}
    return type(event), own, recorded.source, recorded.source_name, recorded.time, recorded.t, recorded.schema


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a loaded machine draws slowly
@given(RECORDED)
def test_reading_is_the_inverse_of_writing(recorded):
    assert told(from_json(as_json(recorded))) == told(recorded)


@given(RECORDED)
def test_every_line_has_the_envelope_and_is_strict_json(recorded):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    line = as_json(recorded)
    assert "\n" not in line
    row = json.loads(line, parse_constant=refuse)
    assert list(row)[: len(ENVELOPE)] == list(ENVELOPE)
    assert (row["kind"], row["schema"]) == (recorded.event.kind, SCHEMA)


def test_every_event_class_is_read_back_and_no_field_hides_the_envelope():
    mine = {
        found for found in vars(kinds).values() if isinstance(found, type) and issubclass(found, Event)
    } - {Event, Unknown}  # fmt: skip
    assert set(KINDS) == mine
    assert len({kind.kind for kind in KINDS}) == len(KINDS)
    for kind in KINDS:
        assert not {each.name for each in fields(kind)} & set(ENVELOPE), kind
        assert getattr(events, kind.__name__) is kind


def test_time_is_written_in_utc_to_the_millisecond():
    at = datetime(2026, 3, 1, 13, 30, 0, 123_456, tzinfo=timezone(timedelta(hours=1)))
    row = json.loads(as_json(Recorded(event=Opening(id="a", name="amber"), time=at, t=1.23456)))
    assert (row["time"], row["t"]) == ("2026-03-01T12:30:00.123Z", 1.2346)


def opening(**changed: Any) -> str:
    row = json.loads(as_json(Recorded(event=Opening(id="a1", name="amber"), source="a1", source_name="amber")))
    return json.dumps({key: value for key, value in (row | changed).items() if value is not ...})


def test_what_a_newer_release_says_is_tolerated():
    told_more = from_json(opening(colour="red"))
    assert told_more.event == Opening(id="a1", name="amber"), "a field of a newer release"
    unknown = from_json(opening(kind="dreamt", depth=3)).event
    assert unknown == Unknown(called="dreamt", fields={"id": "a1", "name": "amber", "depth": 3})
    newer = from_json(opening(schema=SCHEMA + 1, name=...))
    assert (newer.event, newer.schema) == (Unknown(called="opening", fields={"id": "a1"}), SCHEMA + 1)
    assert json.loads(as_json(newer)) == json.loads(opening(schema=SCHEMA + 1, name=...)), "written as it was read"


def test_a_default_stands_for_what_an_older_release_did_not_say():
    line = as_json(Recorded(event=PeerChanged(peer="b1", name="birch", status="gone", why="silent")))
    row = json.loads(line)
    del row["why"]
    assert from_json(json.dumps(row)).event == PeerChanged(peer="b1", name="birch", status="gone")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cheered(Event):
    """An app's own."""

    kind = "cheered"
    loudness: float


def test_an_apps_own_events_come_back_too():
    line = as_json(Recorded(event=Cheered(loudness=0.5)))
    assert from_json(line, also=[Cheered]).event == Cheered(loudness=0.5)
    assert from_json(line).event == Unknown(called="cheered", fields={"loudness": 0.5})


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "is no event: Expecting value"),
        ("[1, 2]", r"'\[1, 2\]' is no event: it is not an object"),
        ('{"kind": "opening", "schema": 1', "is no event: Expecting"),
        ("[" * 100_000, "is no event"),
        (opening(kind=...), "'kind' is missing"),
        (opening(source=...), "'source' is missing"),
        (opening(kind=3), "kind: a text is expected, not 3"),
        (opening(schema="1"), "schema: a whole number is expected"),
        (opening(schema=True), "schema: a whole number is expected"),
        (opening(t=None), "t: a number is expected"),
        (opening(t=10**400), "t: a number is expected"),
        (opening(time="yesterday"), "Invalid isoformat"),
        (opening(time="2026-03-01T12:30:00"), "does not say in which zone"),
        (opening(time="0001-01-01T00:00:00+23:59"), "is no event"),
        (opening(name=...), "opening: 'name' is missing"),
        (opening(name=["amber"]), "opening.name: a text is expected"),
    ],
)
def test_a_broken_line_is_an_error_that_shows_it(line, why):
    with pytest.raises(StateError, match=why) as caught:
        from_json(line)
    assert str(caught.value).startswith(repr(line[:20])[:15])
    assert len(str(caught.value)) < 300


def test_null_is_a_number_only_where_numbers_belong():
    line = as_json(Recorded(event=Trained(round=1, phase="local", steps=1, samples=2, loss=0.5, seconds=1.0)))
    with pytest.raises(StateError, match=r"trained\.steps: a whole number is expected, not None"):
        from_json(json.dumps(json.loads(line) | {"steps": None}))


def test_a_file_is_read_line_by_line_and_a_cut_end_is_left_out(tmp_path):
    path = tmp_path / "events.jsonl"
    whole = opening()
    path.write_text(f"{whole}\n{whole}\n{whole[:30]}")
    assert [each.event for each in read_events(path)] == [Opening(id="a1", name="amber")] * 2
    path.write_text(f"{whole}\n{whole[:30]}\n{whole}\n")
    with pytest.raises(StateError, match=r"events\.jsonl, line 2: .*is no event"):
        list(read_events(path))
    with pytest.raises(StateError, match=r"cannot read .*missing\.jsonl: No such file"):
        list(read_events(tmp_path / "missing.jsonl"))
