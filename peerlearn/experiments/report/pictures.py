"""Pictures of an experiment: learning curves, private against shared accuracy with every model's curve, confusion."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peerlearn.errors import StateError
from peerlearn.experiments.report.rows import series
from peerlearn.experiments.run.results import Stored

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 110
_MOST_MATRICES = 20
_GRID = np.linspace(0.0, 1.0, 401)
_LINES = ("-", "--", "-.", ":")


def draw(stored: Stored, folder: Path, prefix: str = "") -> list[tuple[str, Path]] | None:
    """Title and path of each picture, written into `folder`. None when matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return None
    made = []
    for title, name, drawing in (
        ("learning curves", "learning", _learning),
        ("private against shared accuracy", "curves", _curves),
        ("confusion matrices", "confusion", _confusion),
    ):
        figure = Figure(layout="constrained")
        FigureCanvasAgg(figure)
        if not drawing(stored, figure):
            continue
        path = folder / f"{prefix}{name}.png"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=_DPI)
        except OSError as exc:
            raise StateError(f"cannot write {path}: {exc.strerror}") from exc
        made.append((title, path))
    return made


def _learning(stored: Stored, figure: "Figure") -> bool:
    """Private, remote and shared accuracy (a stream: the error) per round, mean over seeds; where nobody lacks a class,
    there is nothing remote, and what is private is all."""
    metrics = [m for m in ("private", "remote", "shared", "error") if _measured(stored, m)]
    if "shared" in metrics and "remote" not in metrics:
        metrics.remove("private")
    if not metrics:
        return False
    figure.set_size_inches(4.6 * len(metrics), 4.2)
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        for number, variant in enumerate(stored.runs):
            if points := _mean_series(stored, variant, metric):
                axes.plot(list(points), [100 * v for v in points.values()], label=variant, **_style(number))
        axes.set_title(metric)
        axes.set_xlabel("round")
        axes.set_ylabel("%")
        axes.grid(alpha=0.3)
    _legend(figure, *panels)
    return True


def _curves(stored: Stored, figure: "Figure") -> bool:
    """Each model's curve after the last round, of one offset on its own classes, and where it stands by itself."""
    figure.set_size_inches(7.6, 5.6)
    axes = figure.subplots()
    drawn = False
    for number, variant in enumerate(stored.runs):
        runs = list(stored.runs[variant].values())
        curves = [c for run in runs for c in (_on_grid(p.curve) for p in run.measured.values())
                  if c is not None]  # fmt: skip
        if not curves:
            continue
        drawn = True
        mean = np.mean(curves, axis=0)  # nan where one of them does not reach
        axes.plot(100 * _GRID, 100 * mean, label=variant, **_style(number))
        x, y = (
            100 * float(np.mean([list(series(run, m).values())[-1] for run in runs])) for m in ("private", "shared")
        )
        axes.plot(x, y, "o", color=_style(number)["color"], markersize=5)
    axes.set_xlabel("private accuracy in %")
    axes.set_ylabel("shared accuracy in %")
    axes.set_title("one offset on the own classes, swept; the dot: as the model is", fontsize=10)
    axes.grid(alpha=0.3)
    if drawn:
        axes.set_xlim(50, 100)
        _legend(figure, axes)
    return drawn


def _on_grid(curve: Mapping[str, Sequence[float | None]]) -> "np.ndarray[tuple[int], np.dtype[np.float64]] | None":
    """Shared accuracy at each private accuracy of the grid; nan outside the curve's reach."""
    pairs = sorted((p, s) for p, s in zip(curve.get("private", ()), curve.get("shared", ()), strict=True)
                   if p is not None and s is not None)  # fmt: skip
    if len(pairs) < 2:
        return None
    private, shared = np.array(pairs).T
    shared_at: np.ndarray[tuple[int], np.dtype[np.float64]] = np.interp(
        _GRID, private, shared, left=np.nan, right=np.nan
    )
    return shared_at


def _confusion(stored: Stored, figure: "Figure") -> bool:
    """Of the first measured peer, all seeds together."""
    sums: dict[str, np.ndarray[Any, Any]] = {}
    titles: dict[str, str] = {}
    for variant, runs in stored.runs.items():
        for run in runs.values():
            name, peer = next(iter(run.measured.items()))
            if peer.confusion:
                sums[variant] = sums.get(variant, 0) + np.array(peer.confusion)
                titles[variant] = f"{variant}, {name}"
    chosen = list(sums)[:_MOST_MATRICES]
    if not chosen:
        return False
    columns = min(5, len(chosen))
    lines = -(-len(chosen) // columns)
    figure.set_size_inches(3.2 * columns, 3.4 * lines)
    places = figure.subplots(lines, columns, squeeze=False).reshape(-1)
    for axes in places[len(chosen) :]:
        axes.set_axis_off()
    for axes, variant in zip(places, chosen, strict=False):
        _matrix(axes, sums[variant], titles[variant])
    return True


def _matrix(axes: "Axes", counts: "np.ndarray[Any, Any]", title: str) -> None:
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_title(title, fontsize=8)
    axes.set_xlabel("predicted class", fontsize=7)
    axes.set_ylabel("true class", fontsize=7)
    for (true, predicted), share in np.ndenumerate(shares):
        if share >= 0.05:
            colour = "white" if share > 0.5 else "black"
            axes.text(predicted, true, f"{100 * share:.0f}", ha="center", va="center", fontsize=5, color=colour)


def _legend(figure: "Figure", *panels: "Axes") -> None:
    """Beside the picture, where it covers nothing: of all that is drawn in any panel."""
    drawn: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            drawn.setdefault(label, handle)
    figure.legend(drawn.values(), drawn.keys(), loc="outside right upper", fontsize=7)


def _measured(stored: Stored, metric: str) -> bool:
    means = (mean for variant in stored.runs for mean in _mean_series(stored, variant, metric).values())
    return any(map(math.isfinite, means))


def _mean_series(stored: Stored, variant: str, metric: str) -> dict[int, float]:
    """Round to mean over seeds, of the rounds that all have."""
    per_seed = [found for run in stored.runs[variant].values() if (found := series(run, metric))]
    if not per_seed:
        return {}
    common = set.intersection(*(set(found) for found in per_seed))
    return {round_: float(np.mean([found[round_] for found in per_seed])) for round_ in sorted(common)}


def _style(number: int) -> dict[str, Any]:
    return {"color": f"C{number % 10}", "linestyle": _LINES[number // 10 % len(_LINES)], "linewidth": 1.3}
