"""`peerlearn experiment run | list`: run experiments, go on where they stopped, then report."""

import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from peerlearn.cli import choices
from peerlearn.cli.output import Output
from peerlearn.cli.report import report_on
from peerlearn.errors import ConfigError
from peerlearn.experiments.run import build, results
from peerlearn.experiments.run import runner as running
from peerlearn.experiments.run.runner import Job
from peerlearn.experiments.spec import experiment as experiments
from peerlearn.experiments.spec import library
from peerlearn.tuning.malloc import tune_allocator

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


def experiment_run(options: ExperimentOptions, output: Output) -> None:
    """Run what is not finished yet, then report. An interruption leaves what is finished, and says how to go on.

    Raises ConfigError, StateError or LearnerError.
    """
    tune_allocator()
    if options.transport not in TRANSPORTS:
        raise ConfigError(f"--transport must be one of {', '.join(TRANSPORTS)}, not {options.transport!r}")
    if options.seeds is not None:
        choices.at_least(1, options.seeds, "--seeds")
    source = library.find(options.file)
    experiment = experiments.load(source, quick=options.quick, seeds=options.seeds)
    if experiment.needs:
        raise ConfigError(f"{source}: {experiment.needs}")
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
    report_on([results.stored(out)], None, output)


def experiment_list(output: Output) -> None:
    """Print the experiments that ship, those that cannot be run here with what they need. Raises ConfigError when a
    file cannot be read."""
    rows: list[dict[str, Any]] = []
    for each in library.shipped():
        found = experiments.load(each.path)
        why = found.needs or next(filter(None, map(build.missing, found.variants.values())), "")
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
