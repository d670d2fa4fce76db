"""Sinks: who states an event and when, and where it goes."""

import io
from datetime import UTC, datetime, timedelta

import pytest

from peerlearn.errors import StateError
from peerlearn.events import (
    Decided,
    JsonlSink,
    MemorySink,
    Opening,
    Published,
    Stopped,
    Tee,
    discard,
    from_json,
    read_events,
)


def test_a_sink_learns_from_the_first_event_who_speaks():
    stream = io.StringIO()
    sink = JsonlSink(stream, source_name="amber")
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    for event in (Decided(round=0, why="early"), Opening(id="a1", name="amber"), Stopped(round=1, why="done")):
        sink(event)
    found = [from_json(line) for line in stream.getvalue().splitlines()]
    assert [(each.source, each.source_name) for each in found] == [("", "amber"), ("a1", "amber"), ("a1", "amber")]
    assert before <= found[0].time <= found[-1].time <= datetime.now(UTC)
    assert 0 <= found[0].t <= found[-1].t < 60


def test_a_second_run_in_the_same_file_is_under_its_own_name(tmp_path):
    path = tmp_path / "deep" / "events.jsonl"
    for id, name in (("a1", "amber"), ("b1", "birch")):
        sink = JsonlSink.open(path)
        sink(Opening(id=id, name=name))
        sink(Published(round=0, version=0))
        sink.close()
    assert [each.source_name for each in read_events(path)] == ["amber", "amber", "birch", "birch"]


def test_a_file_that_cannot_be_made_is_an_error_that_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"cannot write events to .*: .*; choose another directory"):
        JsonlSink.open(tmp_path / "file" / "events.jsonl")


def test_memory_keeps_order_and_picks_by_class_and_a_tee_feeds_all():
    one, other = MemorySink(), MemorySink()
    both = Tee(one, discard, other)
    said = [Opening(id="a1", name="amber"), Published(round=0, version=0), Published(round=1, version=1)]
    for event in said:
        both(event)
    assert one.events == other.events == said
    assert one.of(Published) == said[1:]
