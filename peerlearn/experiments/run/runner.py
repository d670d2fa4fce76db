"""Runs an experiment: every variant with every seed, those that are finished already left out."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from peerlearn.experiments.run import build, controls, fabric, network_faults
from peerlearn.experiments.run.fabric import PeerRun, Run
from peerlearn.experiments.run.network_faults import Kind
from peerlearn.experiments.run.recorder import write_json
from peerlearn.experiments.run.results import RESULT, Folder, result
from peerlearn.experiments.spec.experiment import HARNESS, Experiment


@dataclass(frozen=True, slots=True)
class Job:
    variant: str
    seed: int


class Watcher(Protocol):
    """Told how far an experiment is. Called from the thread that runs it."""

    def begins(self, todo: int, finished: int) -> None:
        """So many runs are to be done; so many are finished from an earlier call."""
        ...

    def run_begins(self, job: Job) -> None: ...

    def stepped(self, done: int, goal: int) -> None:
        """Rounds of all peers of the run under way."""
        ...

    def run_ended(self, job: Job, seconds: float) -> None: ...


def run(experiment: Experiment, source: Path, out: Path, *, transport: Kind, watcher: Watcher) -> str:
    """What is missing in `out` is run, seed by seed. The reason when the experiment cannot be run here, else "".

    Raises ConfigError, StateError, LearnerError, and what peers raise. An interruption leaves finished runs whole.
    """
    folder = Folder(out, experiment, source)
    for setup in experiment.variants.values():
        if (why := build.missing(setup)) is not None:
            folder.describe(skipped=why)
            return why
    jobs = [Job(variant, seed) for seed in experiment.head.seeds for variant in experiment.variants]
    todo = [job for job in jobs if not folder.finished(job.variant, job.seed)]
    watcher.begins(len(todo), len(jobs) - len(todo))
    with _one_thread():
        for job in todo:
            _whole(experiment, job, folder, transport, watcher)
            # Peers end in reference cycles: a task group that was cancelled holds its own frames. Python looks for
            # cycles when a quarter more objects have come to be, and torch alone is 300,000: the models of many runs
            # would pile up until then.
            gc.collect()
    return ""


def _whole(experiment: Experiment, job: Job, folder: Folder, transport: Kind, watcher: Watcher) -> None:
    """One run, and its folder."""
    watcher.run_begins(job)
    began = time.monotonic()
    with folder.running(job.variant, job.seed) as here:
        seats = _run(experiment, job, here, transport, watcher)
        seconds = time.monotonic() - began
        written = result(experiment, job.variant, job.seed, seats=seats, seconds=seconds, transport=transport)
        write_json(here / RESULT, written)
    watcher.run_ended(job, time.monotonic() - began)


def _run(experiment: Experiment, job: Job, here: Path, transport: Kind, watcher: Watcher) -> list[PeerRun]:
    """Peers of one seed have the same identities and data in all variants that have the same data and partition."""
    setup = experiment.variants[job.variant]
    given = Run(
        setup=setup,
        identity=f"{experiment.name}/{job.seed}",
        seed=job.seed,
        world=build.world(setup, job.seed),
        folder=here,
        stepped=watcher.stepped,
    )
    if setup.strategy.name in HARNESS:
        return controls.run(given)
    with network_faults.runner(setup.faults, transport) as runner:
        return runner.run(fabric.run(given, transport))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Inside the block torch computes with one thread: peers have threads of their own, and sums come out alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
