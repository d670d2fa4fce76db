"""`peerlearn report`: tables, claims and pictures of experiments, beside the papers' numbers."""

import sys
from collections.abc import Sequence
from pathlib import Path

from peerlearn import atomicfile
from peerlearn.cli.output import Output
from peerlearn.errors import StateError
from peerlearn.experiments.report import page, pictures, tables
from peerlearn.experiments.run import results
from peerlearn.experiments.run.results import Stored


def report(folders: Sequence[Path], out: Path | None, output: Output) -> None:
    """Report on the experiments in these directories. Raises StateError for one that holds no experiment."""
    report_on([results.stored(folder) for folder in folders], out, output)


def report_on(found: Sequence[Stored], out: Path | None, output: Output) -> None:
    """Markdown to stdout (with --json to stderr), and into each experiment's directory, or into the page in `out`."""
    texts: dict[str, str] = {}
    for stored in found:
        own = stored.path if out is None else out
        place = (own, "") if out is None else (own / "results", f"{stored.head.name}-")
        drawn = [] if stored.skipped else pictures.draw(stored, *place)
        if drawn is None:
            output.warn("no pictures: matplotlib is not installed; pip install 'peerlearn[plot]'")
        named = [(title, str(path.relative_to(own))) for title, path in drawn or ()]
        texts[stored.head.name] = text = tables.markdown(stored, named)
        if out is None:
            _write(own / "report.md", text)
    if out is not None:
        _write(out / "results.md", page.page(texts, _read(out / "results.md")))
    (sys.stderr if output.as_json else sys.stdout).write("\n".join(texts.values()))
    summaries = [tables.summary(stored) for stored in found]
    output.result(summaries[0] if len(summaries) == 1 else {"experiments": summaries})


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as exc:
        raise StateError(f"{path} is in the way and cannot be read ({exc}): move it, or choose another --out") from exc


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomicfile.write(path, text.encode(), mode=atomicfile.SHARED)
    except OSError as exc:
        raise StateError(f"cannot write {path}: {exc.strerror}; choose another directory") from exc
