"""The demo's picture: one row per peer, its confusion matrix in isolation beside the one after learning from others."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peerlearn.errors import StateError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def confusion_png(peers: Sequence[Mapping[str, Any]], path: Path) -> Path | None:
    """Draw `peers` (name, classes, confusion, marks) into `path`. None when matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return None
    figure = Figure(figsize=(7.2, 3.5 * len(peers)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(peers), 2, squeeze=False)
    for axes, peer in zip(grid, peers, strict=True):
        _matrix(axes[0], peer, "isolated")
        _matrix(axes[1], peer, "final")
    try:
        figure.savefig(path, dpi=110)
    except OSError as exc:
        raise StateError(f"cannot write {path}: {exc.strerror}") from exc
    return path


def _matrix(axes: "Axes", peer: Mapping[str, Any], which: str) -> None:
    counts = peer["confusion"][which]
    shares = [[n / max(1, sum(row)) for n in row] for row in counts]
    classes = range(len(counts))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(classes)
    axes.set_yticks(classes)
    for label in axes.get_yticklabels():
        if int(label.get_text()) in peer["classes"]:
            label.set_fontweight("bold")
    for true in classes:
        for predicted in classes:
            share = shares[true][predicted]
            if share >= 0.05:
                colour = "white" if share > 0.5 else "black"
                axes.text(predicted, true, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=colour)
    marks = peer[which]
    axes.set_title(f"{peer['name']}, {which}\nown {marks['private']:.0%}, others' {marks['remote']:.0%}", fontsize=10)
    axes.set_xlabel("predicted class", fontsize=8)
    axes.set_ylabel("true class (bold: own)", fontsize=8)
