"""`peerlearn experiment run | list` and `peerlearn report`: run experiments, go on where they stopped, table them."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from peerlearn.cli import choices
from peerlearn.cli.output import Output
from peerlearn.errors import ConfigError, StateError
from peerlearn.experiments.report import page, pictures
from peerlearn.experiments.report import tables as report
from peerlearn.experiments.run import build, results
from peerlearn.experiments.run import runner as running
from peerlearn.experiments.run.results import Stored
from peerlearn.experiments.run.runner import Job
from peerlearn.experiments.spec import experiment as experiments
from peerlearn.experiments.spec import library

TRANSPORTS = ("memory", "grpc")
_SAY_EVERY = 10.0
"""Seconds between two lines where nothing can be drawn over."""


@dataclass(frozen=True, slots=True)
class ExperimentOptions:
    file: str
    seeds: int | None
    quick: bool
    transport: str
    out: Path | None


def run(options: ExperimentOptions, output: Output) -> None:
    """Raises ConfigError, StateError, LearnerError; an interruption leaves what is finished, and says how to go on."""
    if options.transport not in TRANSPORTS:
        raise ConfigError(f"--transport must be one of {', '.join(TRANSPORTS)}, not {options.transport!r}")
    if options.seeds is not None:
        choices.at_least(1, options.seeds, "--seeds")
    source = library.find(options.file)
    experiment = experiments.load(source, quick=options.quick, seeds=options.seeds)
    out = options.out or Path("runs") / f"{experiment.name}{'-quick' if options.quick else ''}"
    with Ticker(output) as ticker:
        try:
            kind = cast("Literal['memory', 'grpc']", options.transport)
            skipped = running.run(experiment, source, out, transport=kind, watcher=ticker)
        except KeyboardInterrupt:
            output.warn(f"interrupted; what is finished is in {out}, and the same command goes on from there")
            raise
    if skipped:
        output.warn(f"skipped {experiment.name}: {skipped}")
    _tell([results.stored(out)], None, output)


def listed(output: Output) -> None:
    """The experiments that ship. Raises ConfigError when one of them cannot be read."""
    rows: list[dict[str, Any]] = []
    for each in library.shipped():
        found = experiments.load(each.path)
        why = next(filter(None, map(build.missing, found.variants.values())), "")
        rows.append(
            {
                "name": each.name, "title": found.head.title, "path": str(each.path), "skipped": why,
                "variants": list(found.variants), "seeds": list(found.head.seeds), "claims": len(found.head.claims),
            }
        )  # fmt: skip
    output.result({"experiments": rows})
    for row in rows:
        output.say(f"{row['name']}: {row['title']} ({len(row['variants'])} variants, {row['claims']} claims)")
        if row["skipped"]:
            output.say(f"  cannot be run here: {row['skipped']}")
    if not rows:
        output.say("No experiment ships with this installation.")


def tell(folders: list[Path], out: Path | None, output: Output) -> None:
    """Raises StateError for a directory that holds no experiment."""
    _tell([results.stored(folder) for folder in folders], out, output)


def _tell(found: list[Stored], out: Path | None, output: Output) -> None:
    """Markdown to stdout (with --json to stderr), and into each experiment's directory, or into the page in `out`."""
    texts: dict[str, str] = {}
    for stored in found:
        own = stored.path if out is None else out
        place = (own, "") if out is None else (own / "results", f"{stored.head.name}-")
        drawn = [] if stored.skipped else pictures.draw(stored, *place)
        if drawn is None:
            output.warn("no pictures: matplotlib is not installed; pip install 'peerlearn[plot]'")
        named = [(title, str(path.relative_to(own))) for title, path in drawn or ()]
        texts[stored.head.name] = text = report.markdown(stored, named)
        if out is None:
            _write(own / "report.md", text)
    if out is not None:
        _write(out / "results.md", page.page(texts, _read(out / "results.md")))
    (sys.stderr if output.as_json else sys.stdout).write("\n".join(texts.values()))
    summaries = [report.summary(stored) for stored in found]
    output.result(summaries[0] if len(summaries) == 1 else {"experiments": summaries})


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as exc:
        raise StateError(f"{path} is in the way and cannot be read ({exc}): move it, or choose another --out") from exc


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise StateError(f"cannot write {path}: {exc.strerror}; choose another directory") from exc


class Ticker:
    """How far an experiment is, and when it will be done, on stderr: a bar on a terminal, else a line now and then."""

    def __init__(self, output: Output) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
            console=self._console, disable=not self._console.is_terminal, transient=True,
        )  # fmt: skip
        self._task: TaskID = self._bar.add_task("", total=1.0)
        self._todo = self._done = 0
        self._label = ""
        self._began = self._said = time.monotonic()

    def begins(self, todo: int, finished: int) -> None:
        self._todo = todo
        self._began = time.monotonic()
        if finished:
            self._say(f"{finished} runs are finished already")

    def run_begins(self, job: Job) -> None:
        self._label = f"{self._done + 1}/{self._todo} {job.variant}, seed {job.seed}"
        self._show(0.0)

    def stepped(self, done: int, goal: int) -> None:
        self._show(done / max(1, goal))
        if time.monotonic() - self._said > _SAY_EVERY and self._bar.disable:
            self._say(f"{self._label}: {100 * done / max(1, goal):.0f} %{self._left(done / max(1, goal))}")

    def run_ended(self, job: Job, seconds: float) -> None:
        self._done += 1
        self._say(f"{self._label}: {seconds:.1f} s{self._left(0.0)}")

    def _show(self, share: float) -> None:
        description = self._label + self._left(share)
        self._bar.update(self._task, description=description, completed=(self._done + share) / max(1, self._todo))

    def _left(self, share: float) -> str:
        """What this call has taken so far, per run, times what is left."""
        worked = self._done + share
        if worked < 0.2 or worked >= self._todo:
            return ""
        left = (time.monotonic() - self._began) / worked * (self._todo - worked)
        return f"; about {left:.0f} s left" if left < 120 else f"; about {left / 60:.0f} min left"

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        self._console.print(text, markup=False)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()
