"""From runs to rows: per variant and metric the mean over measured peers and last rounds, then over seeds."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peerlearn.errors import ConfigError
from peerlearn.experiments.run.results import Stored, StoredRun
from peerlearn.experiments.spec.claims import name_in_formulas
from peerlearn.suggest import did_you_mean


@dataclass(frozen=True, slots=True)
class Row:
    """`mean` and `sd` (0 for one value) over the `n` seeds for which there is a value; `values`: by seed."""

    strategy: str
    variant: str
    metric: str
    values: Mapping[int, float]

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values.values())

    @property
    def sd(self) -> float:
        return statistics.stdev(self.values.values()) if self.n > 1 else 0.0


def rows(stored: Stored) -> list[Row]:
    """In the order of the variants, metrics by name. A metric that no seed has a value for has no row."""
    found = []
    for variant, runs in stored.runs.items():
        by_metric: dict[str, dict[int, float]] = {}
        for seed, run in runs.items():
            for metric, value in of_run(run).items():
                if math.isfinite(value):
                    by_metric.setdefault(metric, {})[seed] = value
        strategy = str(stored.variants[variant]["strategy"]["name"])
        found += [Row(strategy, variant, metric, values) for metric, values in sorted(by_metric.items())]
    return found


def of_run(run: StoredRun) -> dict[str, float]:
    """Metric to value: the mean over measured peers; of a series, of the last rounds; nan where nothing is."""
    per_metric: dict[str, list[float]] = {}
    for peer in run.measured.values():
        for metric, points in peer.series.items():
            values = [value for _, value in points[-run.last :]]
            per_metric.setdefault(metric, []).append(_mean(values))
        for metric, total in peer.totals.items():
            per_metric.setdefault(metric, []).append(total)
    found = {metric: _mean(values) for metric, values in per_metric.items()}
    found["bytes_all_peers"] = sum(peer.totals["bytes_received"] for peer in run.peers.values())
    found["wall_seconds"] = run.wall_seconds
    return found


def series(run: StoredRun, metric: str) -> dict[int, float]:
    """Round to the mean over measured peers."""
    rounds: dict[int, list[float | None]] = {}
    for peer in run.measured.values():
        for round_, value in peer.series.get(metric, ()):
            assert round_ is not None
            rounds.setdefault(int(round_), []).append(value)
    return {round_: _mean(values) for round_, values in sorted(rounds.items())}


class Table:
    """What was measured, as formulas ask for it (claims.Measured)."""

    def __init__(self, stored: Stored) -> None:
        self._runs = {name_in_formulas(variant): runs for variant, runs in stored.runs.items()}
        self._values = {
            variant: {seed: _named(of_run(run)) for seed, run in runs.items()} for variant, runs in self._runs.items()
        }

    def values(self, variant: str, metric: str) -> tuple[float, ...]:
        found = self._values.get(variant, {})
        for seed, values in found.items():
            if metric not in values:
                raise ConfigError(
                    f"{variant} (seed {seed}) has no metric {metric!r}, only {', '.join(sorted(values))}"
                    f"{did_you_mean(metric, values)}"
                )
        return tuple(found[seed][metric] for seed in sorted(found))

    def series(self, variant: str, metric: str) -> tuple[Mapping[int, float], ...]:
        self.values(variant, metric)
        runs = self._runs.get(variant, {})
        return tuple(series(runs[seed], _original(runs[seed], metric)) for seed in sorted(runs))


def _named(values: Mapping[str, float]) -> dict[str, float]:
    return {name_in_formulas(metric): value for metric, value in values.items()}


def _original(run: StoredRun, metric: str) -> str:
    names = {name for peer in run.measured.values() for name in peer.series}
    return next((name for name in sorted(names) if name_in_formulas(name) == metric), metric)


def _mean(values: Sequence[float | None]) -> float:
    """nan when one is missing: a mean over less is another measure."""
    if not values or any(value is None or math.isnan(value) for value in values):
        return float("nan")
    return statistics.fmean(value for value in values if value is not None)
