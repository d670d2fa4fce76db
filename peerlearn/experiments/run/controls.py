"""Strategies of the harness: models that learn without peers, for scale, on the same data by the same measures."""

from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import torch

from peerlearn.events import Trained
from peerlearn.experiments.run import build
from peerlearn.experiments.run.evaluation import Evaluator
from peerlearn.experiments.run.fabric import PeerRun, Run
from peerlearn.experiments.run.recorder import Recorder, Series
from peerlearn.learning.learner import Learner
from peerlearn.learning.sampler import derived
from peerlearn.strategies.isolated import Isolated
from peerlearn.types import epochs


def run(given: Run) -> list[PeerRun]:
    """`central`: one model on everybody's data, sitting each measured peer's exam. `local`: each measured peer by
    itself. `passes` over the data per round. Raises LearnerError."""
    with (given.folder / "metrics.jsonl").open("w", encoding="utf-8") as stream, ExitStack() as stack:
        central = given.setup.strategy.name == "central"
        seats = _central(given, stream) if central else _local(given, stream)
        for seat in seats:
            stack.callback(seat.recorder.close)
        learners = seats[:1] if central else seats
        for round_ in range(given.setup.rounds):
            for number, seat in enumerate(learners, start=1):
                _train(seat, int(given.setup.strategy.options.get("passes", 1)), round_)
                given.stepped(round_ * len(learners) + number, given.setup.rounds * len(learners))
            if (round_ + 1) % given.setup.measure.every == 0 or round_ + 1 == given.setup.rounds:
                for seat in seats:
                    with seat.cpu.running():
                        seat.recorder.series.put(round_ + 1, seat.measured(), phase="round")
        for seat in seats:
            seat.finish()
    return seats


def _train(seat: PeerRun, passes: int, round_: int) -> None:
    with seat.cpu.running() as wall:
        report = seat.learner.fit(epochs(passes))
    seat.recorder(
        Trained(
            round=round_, phase="local", steps=report.steps, samples=report.samples, loss=report.loss,
            seconds=wall.seconds,
        )
    )  # fmt: skip


def _central(given: Run, stream: TextIO) -> list[PeerRun]:
    """The first seat trains; all sit their exam with its model, whose seconds are each one's."""
    rows = torch.cat(given.world.parts).unique()
    everything = given.world.train.subset(given.world.train.ids[rows], name=f"{given.world.train.name}/everybody")
    first = given.setup.peers.looked_at[0]
    model = build.model_of(given.setup, first, everything.classes, given.seed)
    seed = derived("learner", given.seed, "central")
    learner = build.make_learner(given.setup.training, model, everything, seed=seed)
    seats = [_seat(given, name, learner, stream) for name in given.setup.peers.looked_at]
    for seat in seats:
        seat.cpu = seats[0].cpu
    return seats


def _local(given: Run, stream: TextIO) -> list[PeerRun]:
    setup, world, seed = given.setup, given.world, given.seed
    names = setup.peers.looked_at
    return [_seat(given, name, build.learner(setup, world, name, seed), stream) for name in names]


def _seat(given: Run, name: str, learner: Learner, stream: TextIO) -> PeerRun:
    exam: Evaluator = build.exam(given.setup, given.world, name)
    folder: Path = given.folder
    recorder = Recorder(name, folder, Series(name, stream), by_versions=False)
    return PeerRun(name, learner, Isolated(), exam, recorder)
