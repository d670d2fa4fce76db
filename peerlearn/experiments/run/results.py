"""The directory of an experiment: what was to be run, and one folder per finished run, written whole or not at all.

OUT/experiment.json                     name, head and resolved variants, as of the last call
OUT/experiment.toml                     the file itself
OUT/VARIANT/seed-N/result.json          what the report reads
OUT/VARIANT/seed-N/events-PEER.jsonl    all events of a peer
OUT/VARIANT/seed-N/metrics.jsonl        all metrics, as they came
"""

import json
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from peerlearn import atomicfile
from peerlearn.errors import ConfigError, StateError
from peerlearn.experiments.run.fabric import PeerRun
from peerlearn.experiments.run.recorder import write_json
from peerlearn.experiments.run.workloads import adaptation
from peerlearn.experiments.spec.experiment import Experiment, Head
from peerlearn.experiments.spec.setup import Setup
from peerlearn.schema import read

RESULT, EXPERIMENT, SOURCE = "result.json", "experiment.json", "experiment.toml"
VERSIONS_OF = ("peerlearn", "torch", "numpy", "grpcio", "protobuf")
_PARTIAL = ".partial"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPeer:
    """One peer of a finished run."""

    measured: bool
    """Whether its accuracies are tabled."""
    own: tuple[int, ...]
    """Its own classes."""
    totals: Mapping[str, float]
    """Metric to value over the whole run: bytes, seconds, failed exchanges."""
    series: Mapping[str, tuple[tuple[float | None, ...], ...]]
    """Metric to (round, value) pairs; None: no finite value."""
    confusion: tuple[tuple[int, ...], ...]
    """True class by predicted class, counts; empty when not measured."""
    curve: Mapping[str, tuple[float | None, ...]]
    """`private` and `shared` accuracy along the curve of one offset on the own classes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """What a result.json holds."""

    experiment: str
    variant: str
    strategy: str
    seed: int
    digest: str
    """Of what decides the run: two runs with the same digest and seed are the same run."""
    config: Mapping[str, Any]
    """The resolved variant."""
    transport: str
    wall_seconds: float
    python: str
    platform: str
    versions: Mapping[str, str | None]
    """Package to version."""
    peers: Mapping[str, StoredPeer]

    @property
    def measured(self) -> Mapping[str, StoredPeer]:
        """The peers whose accuracies are tabled."""
        return {name: peer for name, peer in self.peers.items() if peer.measured}

    @property
    def last(self) -> int:
        """So many measured rounds at the end go into a row."""
        return int(self.config["measure"]["last"])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Described:
    """What experiment.json holds."""

    head: Head
    quick: bool
    variants: Mapping[str, Mapping[str, Any]]
    skipped: str


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """An experiment's directory, read back."""

    path: Path
    head: Head
    quick: bool
    variants: Mapping[str, Mapping[str, Any]]
    """Variant to its resolved set-up."""
    runs: Mapping[str, Mapping[int, StoredRun]]
    """Variant to seed to its finished run."""
    skipped: str = ""
    """Why it could not be run; empty: it was."""


class Folder:
    """Where an experiment is written. Raises StateError when it cannot be, or holds another experiment."""

    def __init__(self, path: Path, experiment: Experiment, source: Path) -> None:
        self.path = path
        self._experiment = experiment
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                self._check_mine()
            if source.resolve() != (path / SOURCE).resolve():
                shutil.copyfile(source, path / SOURCE)
        except OSError as exc:
            raise StateError(f"cannot use {path} for results: {exc.strerror}; choose another --out") from exc
        self.describe()

    def describe(self, skipped: str = "") -> None:
        experiment = self._experiment
        variants = {name: experiment.resolved(name) for name in experiment.variants}
        head = {key: value for key, value in _plain(asdict(experiment.head)).items() if key != "claims"}
        head["claims"] = [
            {key: value for key, value in claim.items() if key != "report_only"}
            for claim in _plain([asdict(claim) for claim in experiment.head.claims])
        ]
        write_json(
            self.path / EXPERIMENT,
            {"head": head, "quick": experiment.quick, "variants": variants, "skipped": skipped},
        )

    def finished(self, variant: str, seed: int) -> bool:
        """Raises StateError when there is such a run of another set-up."""
        path = self._run(variant, seed) / RESULT
        if not path.is_file():
            return False
        if _json(path).get("digest") != self._experiment.digest(variant):
            raise StateError(
                f"{path.parent} is of another set-up than the file now says: delete it, or choose another --out"
            )
        return True

    @contextmanager
    def running(self, variant: str, seed: int) -> Iterator[Path]:
        """A folder to write one run into, which takes its name when the block is left without an exception."""
        final = self._run(variant, seed)
        partial = final.with_name(final.name + _PARTIAL)
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            yield partial
            partial.rename(final)
            atomicfile.sync_directory(final.parent)
        except OSError as exc:
            raise StateError(f"cannot write {partial}: {exc.strerror}; choose another --out") from exc
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _run(self, variant: str, seed: int) -> Path:
        return self.path / variant / f"seed-{seed}"

    def _check_mine(self) -> None:
        there = self.path / EXPERIMENT
        name = _json(there).get("head", {}).get("name") if there.is_file() else None
        if name != self._experiment.name:
            holds = f"the experiment {name!r}" if name else "other things"
            raise StateError(f"{self.path} holds {holds}, not {self._experiment.name!r}: choose another --out")


def result(
    experiment: Experiment, variant: str, seed: int, *, seats: Sequence[PeerRun], seconds: float, transport: str
) -> dict[str, Any]:
    """What is written of one run."""
    setup = experiment.variants[variant]
    traffic, answers = _traffic(seats), _answers(seats)
    return {
        "experiment": experiment.name,
        "variant": variant,
        "strategy": setup.strategy.name,
        "seed": seed,
        "digest": experiment.digest(variant),
        "config": experiment.resolved(variant),
        "transport": transport,
        "wall_seconds": round(seconds, 3),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in VERSIONS_OF},
        "peers": {seat.name: _of_peer(setup, seat, traffic[seat.name], answers.get(seat.name, ())) for seat in seats},
    }


def _of_peer(setup: Setup, seat: PeerRun, traffic: tuple[int, int], answers: Sequence[float]) -> dict[str, Any]:
    series = seat.recorder.series.plain()
    one = {
        "bytes_received": float(traffic[0]),
        "bytes_sent": float(traffic[1]),
        "seconds": round(seat.recorder.seconds, 4),
        "cpu_seconds": round(seat.cpu.spent, 4),
        "failed_exchanges": float(seat.recorder.failed),
    }
    if answers:
        one["seconds_per_answer"] = round(sum(answers) / len(answers), 6)
    work = setup.stream.workloads.get(seat.name) if setup.stream is not None else None
    if work is not None and work.new and "error" in series:
        error = [value for _, value in series["error"] if value is not None]
        one |= {name: value for name, value in adaptation(error, work.before).items() if value == value}
    return {
        "measured": seat.exam is not None,
        "own": list(seat.exam.own) if seat.exam is not None else [],
        "totals": one,
        "series": series,
        "confusion": seat.confusion,
        "curve": dict(seat.curve),
    }


def _traffic(seats: Sequence[PeerRun]) -> dict[str, tuple[int, int]]:
    """Bytes received and sent by each peer. The consumer has counted both directions; the provider's are the mirror."""
    both = {seat.name: [0, 0] for seat in seats}
    for seat in seats:
        for provider, (received, sent) in seat.recorder.fetched.items():
            for name, taken, given in ((seat.name, received, sent), (provider, sent, received)):
                if name in both:
                    both[name][0] += taken
                    both[name][1] += given
    return {name: (taken, given) for name, (taken, given) in both.items()}


def _answers(seats: Sequence[PeerRun]) -> dict[str, list[float]]:
    """Seconds that providers took for each answer to a peer, by its name."""
    found: dict[str, list[float]] = {}
    for seat in seats:
        for consumer, seconds in seat.recorder.answered.items():
            found.setdefault(consumer, []).extend(seconds)
    return found


def stored(path: Path) -> Stored:
    """An experiment's directory. Raises StateError when it holds none, or when a file in it is damaged."""
    if not (path / EXPERIMENT).is_file():
        raise StateError(f"{path} holds no experiment: `peerlearn experiment run FILE --out DIR` makes one")
    found = _read(_Described, path / EXPERIMENT)
    runs: dict[str, dict[int, StoredRun]] = {}
    for variant in found.variants:
        folders = [folder for folder in (path / variant).glob("seed-*") if not folder.name.endswith(_PARTIAL)]
        read_back = [_read(StoredRun, folder / RESULT) for folder in folders if (folder / RESULT).is_file()]
        runs[variant] = {run.seed: run for run in sorted(read_back, key=lambda run: run.seed)}
    return Stored(path, found.head, found.quick, found.variants, runs, found.skipped)


def _read(kind: type[T], path: Path) -> T:
    try:
        return read(kind, _json(path), "")
    except ConfigError as exc:
        raise StateError(f"{path} is not what this program writes ({exc}); delete its folder and run again") from exc


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise StateError(f"{path} cannot be read: {exc}; delete its folder and run again") from exc
    if not isinstance(found, dict):
        raise StateError(f"{path} is not what this program writes; delete its folder and run again")
    return found


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
