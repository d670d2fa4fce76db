"""What is kept of one peer's run: its events on disk, and metrics round by round."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from peerlearn import atomicfile
from peerlearn.errors import StateError
from peerlearn.events import (
    Answered,
    Evaluated,
    Event,
    Fetched,
    FetchFailed,
    JsonlSink,
    PhaseStarted,
    Published,
    Trained,
)

_BEFORE = ("private", "remote", "shared")
"""What is kept of the measures between the local and the transfer span of a round."""


class Series:
    """Metrics by name and round (1, 2, ...), also written to a JSONL file as they come."""

    def __init__(self, peer: str, stream: TextIO) -> None:
        self._peer = peer
        self._stream = stream
        self._values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, round_: int, metrics: Mapping[str, float], *, phase: str) -> None:
        """Several values of one metric in one round are averaged."""
        if not metrics:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._stream.write(json.dumps({"peer": self._peer, "round": round_, "phase": phase, **finite}) + "\n")
        for name, value in metrics.items():
            self._values[name][round_].append(value)

    def put(self, round_: int, metrics: Mapping[str, float], *, phase: str) -> None:
        """The last value of a round counts."""
        for name in metrics:
            self._values[name].pop(round_, None)
        self.add(round_, metrics, phase=phase)

    def plain(self) -> dict[str, list[list[float | None]]]:
        """Lists of [round, value], for JSON."""
        return {
            name: [[round_, _finite(sum(values) / len(values))] for round_, values in sorted(rounds.items())]
            for name, rounds in sorted(self._values.items())
        }


class Recorder:
    """The sink of one peer's events. `by_versions`: its schedule has no cycle, so versions published count as rounds.

    Called on the event loop and from the learner's thread; only the loop's calls change what others read.
    """

    def __init__(self, name: str, folder: Path, series: Series, *, by_versions: bool) -> None:
        self._sink = JsonlSink.open(folder / f"events-{name}.jsonl", source_name=name)
        self.name = name
        self.series = series
        self.by_versions = by_versions
        self.phase = ""
        self.round = 0
        self.version = 0
        self.seconds = 0.0
        self.failed = self.said = 0
        """Exchanges that failed; events in all."""
        self.fetched: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        """Bytes received and sent, headers included, by name of the provider."""
        self.answered: dict[str, list[float]] = defaultdict(list)
        """Seconds from question to answer, of every answer with knowledge in it, by name of the consumer."""
        self.changed: Callable[[], None] = lambda: None

    def __call__(self, event: Event) -> None:
        self._sink(event)
        self.said += 1
        match event:
            case PhaseStarted():
                self.phase, self.round = event.phase, event.round
            case Trained():
                self._trained(event)
            case Evaluated():
                self._evaluated(event)
            case Fetched():
                both = self.fetched[event.provider]
                both[0] += event.received_bytes
                both[1] += event.sent_bytes
            case Answered(not_modified=False):
                self.answered[event.consumer].append(event.seconds)
            case FetchFailed():
                self.failed += 1
            case Published():
                self.version = event.version
                self.changed()

    @property
    def now(self) -> int:
        """The round under way, from 1."""
        return (self.version if self.by_versions else self.round) + 1

    def _trained(self, event: Trained) -> None:
        self.seconds += event.seconds
        notes = {_apart(name): value for name, value in event.notes.items()}
        self.series.add(self.now, {**notes, f"seconds_{event.phase}": event.seconds}, phase=event.phase)

    def _evaluated(self, event: Evaluated) -> None:
        if self.by_versions:
            self.series.put(self.now, event.metrics, phase=event.phase)
        elif event.phase == "local":
            before = {f"{name}_before": event.metrics[name] for name in _BEFORE if name in event.metrics}
            self.series.put(self.now, before, phase="local")

    def close(self) -> None:
        self._sink.close()


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all. Raises StateError."""
    try:
        atomicfile.write(path, (json.dumps(value, allow_nan=False) + "\n").encode(), mode=atomicfile.SHARED)
    except OSError as exc:
        raise StateError(f"cannot write {path}: {exc.strerror}; choose another --out") from exc


def _apart(note: str) -> str:
    """Notes must not pass for what is measured on the test set."""
    return f"note_{note}" if note in ("private", "remote", "shared") else note


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
