"""Peers that learn from request batches: their streams and models trained beforehand, and how fast they adapt."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from peerlearn.errors import ConfigError
from peerlearn.experiments.run import build
from peerlearn.experiments.run.build import SharedData
from peerlearn.experiments.spec.setup import Setup, Training, Workload
from peerlearn.learning.dataset import Dataset
from peerlearn.learning.sampler import derived, seeded_rng
from peerlearn.learning.stream import Phase, Stream, StreamLearner, fluctuation, introduction, steady
from peerlearn.types import epochs

_BASE, _LATER = 10, 40
"""Batches before the change that make the base error, and after it over which the mean error is taken."""


def phases(work: Workload) -> tuple[Phase, ...]:
    match work.kind:
        case "steady":
            return steady(work.own, batches=work.batches)
        case "introduction":
            return introduction(work.own, work.new, before=work.before, after=work.after, share=work.share)
        case "fluctuation":
            return fluctuation(
                work.own, work.new, before=work.before, present=work.present, absent=work.absent, times=work.times,
                share=work.share,
            )  # fmt: skip


def learner(setup: Setup, given: SharedData, peer: str, seed: int) -> StreamLearner:
    """Trained beforehand on samples that its stream does not serve. Raises ConfigError for a class that lacks some."""
    assert setup.stream is not None
    work = setup.stream.workloads[peer]
    part = given.train.subset(given.train.ids[given.parts[setup.peers.all.index(peer)]], name=f"{peer}'s requests")
    before = _beforehand(part, work, seed, peer)
    model, start = build.model_of(setup, peer, given.train.classes, seed), ""
    if len(before) and setup.stream.epochs:
        lessons = part.subset(part.ids[before])
        lesson_plan = Training(batch_size=setup.training.batch_size, lr=setup.stream.lr)
        teacher = build.make_learner(lesson_plan, model, lessons, seed=derived("before", seed, peer))
        start = teacher.describe().start
        teacher.fit(epochs(setup.stream.epochs))
    rest = torch.ones(len(part), dtype=torch.bool)
    rest[before] = False
    stream = Stream(
        part.subset(part.ids[rest]), phases(work), batch_size=setup.stream.batch_size,
        seed=derived("requests", seed, peer),
    )  # fmt: skip
    return StreamLearner(
        model, stream, optimizer=build.optimizer(setup.training, model), seed=derived("learner", seed, peer),
        public_sets=given.public_sets, start=start,
    )  # fmt: skip


def _beforehand(part: Dataset, work: Workload, seed: int, peer: str) -> Tensor:
    """Rows int64 (k,) of `trained_on` samples of each class that the model is trained on before its stream begins."""
    drawn = [torch.empty(0, dtype=torch.int64)]
    for c in work.trained_classes or work.own:
        rows = torch.nonzero(part.y == c).reshape(-1)
        if len(rows) < work.trained_on:
            raise ConfigError(
                f"stream.workloads.{peer}: {work.trained_on} samples of class {c} are to be trained on beforehand, and "
                f"there are {len(rows)}"
            )
        drawn.append(rows[torch.randperm(len(rows), generator=seeded_rng("before", seed, peer, c))[: work.trained_on]])
    return torch.cat(drawn)


def adaptation(error: Sequence[float], change: int) -> Mapping[str, float]:
    """How a stream with this `error` per batch went over a change before batch number `change` (from 0).

    `adaptation`: batches until the mean error of 3 is at most base + 0.05; `recovery`: of 5, base + 0.02; the batches
    that were left when that never happens. `error_after_help`: mean error of batches 5 to 15 after the change;
    `error_after`: of all, 40 at most. Base: the mean error of the 10 batches before. Empty without a change.
    """
    later = list(error[change:])
    if change <= 0 or not later:
        return {}
    base = _mean(error[max(0, change - _BASE) : change])
    return {
        "error_base": base,
        "adaptation": _until(later, 3, base + 0.05),
        "recovery": _until(later, 5, base + 0.02),
        "error_after": _mean(later[:_LATER]),
        "error_after_help": _mean(later[5:15]),
        "error_end": _mean(later[-_BASE:]),
    }


def _until(errors: Sequence[float], window: int, level: float) -> float:
    for end in range(window, len(errors) + 1):
        if _mean(errors[end - window : end]) <= level:
            return float(end)
    return float(len(errors))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else float("nan")
