"""One process of the demo: meets the others by mDNS, learns, then trains its isolated twin. Run by `peerlearn demo`.

Speaks JSON events on stdout, and leaves when stdin closes: when all are done, or when the parent is gone.
"""

import asyncio
import json
import sys
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

import peerlearn as pl
from peerlearn.cli.boundary import guarded, leave
from peerlearn.cli.demo import recipe
from peerlearn.cli.demo.child_events import Finished, Hello
from peerlearn.errors import NetworkError, PeerUnreachable
from peerlearn.events import JsonlSink, PhaseStarted, Record, Tee
from peerlearn.learning import evaluate
from peerlearn.orchestrator.training.gated import Predict
from peerlearn.schedule import Local, Schedule, Transfer
from peerlearn.strategies import registry
from peerlearn.strategies.base import Strategy
from peerlearn.tuning.gc import tune_collector
from peerlearn.tuning.malloc import tune_allocator
from peerlearn.types import Span

MEETING = 60.0
"""Seconds until the others must have been found; the slowest of them imports torch on a busy machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What the parent wants of this child; comes as JSON on the command line."""

    number: int
    peers: int
    strategy: str
    rounds: int | None
    seed: int
    group_tag: str
    out: str


class DemoEvaluator:
    """The uniform test set, and what a model scores on it by the classes that its peer owns."""

    def __init__(self, own: tuple[int, ...]) -> None:
        self._own = own
        self._test = recipe.demo_test_set()

    @property
    def x(self) -> Tensor:
        return self._test.x

    def confusion(self, probabilities: Tensor) -> Tensor:
        """int64 (C, C): true class by predicted class, from probabilities (N, C) for `x`."""
        return evaluate.confusion(probabilities, self._test.y, classes=self._test.classes)

    def marks(self, confusion: Tensor) -> dict[str, float]:
        """Private, remote and shared accuracy."""
        return asdict(evaluate.scores(confusion, self._own))

    def measure(self, predict: Predict) -> dict[str, float]:
        return self.marks(self.confusion(predict(self.x)))


class DemoPeer:
    """One peer's part of the demo, from its first word to its results."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._peers = recipe.demo_peers(spec.peers)
        self._name, self._own = list(self._peers.items())[spec.number]
        self._rounds = recipe.DEMO_ROUNDS if spec.rounds is None else spec.rounds
        self._exam = DemoEvaluator(self._own)
        self._out = Path(spec.out)
        self.released = asyncio.Event()
        self.finished = False

    async def work(self) -> None:
        """Meet, learn, train the twin, write the results; then serve the others until released."""
        file = self._out / f"events-{self._name}.jsonl"
        with closing(JsonlSink.open(file, source_name=self._name)) as events:
            record = Tee(JsonlSink(sys.stdout, source_name=self._name), events)
            record(Hello(name=self._name, classes=self._own, rounds=self._rounds))
            strategy = registry.make(self._spec.strategy)
            async with self._peer(strategy, record) as peer:
                if strategy.schedule.exchanges:
                    await self._meet(peer)
                await peer.run(rounds=self._rounds)
                final = self._exam.confusion(await peer.predict(self._exam.x))
                record(PhaseStarted(round=self._rounds, phase="isolated twin"))
                isolated = await self._twin(strategy.schedule)
                self._write(final, isolated)
                self.finished = True
                record(Finished())
                await self.released.wait()

    def _learner(self) -> pl.Learner:
        return recipe.demo_learner(self._name, self._peers, self._spec.seed)

    def _peer(self, strategy: Strategy, record: Record) -> pl.Peer:
        return pl.Peer(
            self._learner(),
            strategy=strategy,
            name=self._name,
            state=self._out / self._name,
            network=pl.Network(group_tag=self._spec.group_tag),
            record=record,
            measure=self._exam.measure,
        )

    async def _meet(self, peer: pl.Peer) -> None:
        others = self._spec.peers - 1
        try:
            await peer.meet(others=others, timeout=MEETING)
        except PeerUnreachable as exc:
            raise NetworkError(
                f"met {len(peer.others())} of {others} others within {MEETING:g} s; mDNS does not get through on this "
                "machine: run `peerlearn doctor`"
            ) from exc

    async def _twin(self, schedule: Schedule) -> Tensor:
        """The confusion matrix of the same learner from the same start, after as many passes, all of them alone."""
        twin = self._learner()
        try:
            await asyncio.to_thread(twin.fit, Span(passes(schedule) * self._rounds, "epochs"))
        finally:
            twin.interrupt()
        return self._exam.confusion(await asyncio.to_thread(twin.predict, self._exam.x))

    def _write(self, final: Tensor, isolated: Tensor) -> None:
        result = {
            "name": self._name,
            "classes": list(self._own),
            "isolated": self._exam.marks(isolated),
            "final": self._exam.marks(final),
            "confusion": {"isolated": isolated.tolist(), "final": final.tolist()},
        }
        (self._out / f"result-{self._name}.json").write_text(json.dumps(result) + "\n", encoding="utf-8")


def passes(schedule: Schedule) -> int:
    """Passes over the private set in one round, local and transfer spans together."""
    spans = [phase.span for phase in schedule.cycle if isinstance(phase, Local | Transfer)]
    return sum(span.amount for span in spans if span.unit == "epochs")


async def _until_released(peer: DemoPeer) -> None:
    loop = asyncio.get_running_loop()
    stdin = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    async with asyncio.TaskGroup() as group:
        working = group.create_task(peer.work(), name="demo")
        await stdin.read()
        peer.released.set()
        if not peer.finished:
            working.cancel()


def main(argument: str) -> None:
    tune_allocator()
    torch.set_num_threads(1)
    peer = DemoPeer(Spec(**json.loads(argument)))
    tune_collector()
    asyncio.run(_until_released(peer))


def run() -> NoReturn:
    leave(guarded(lambda: main(sys.argv[1])))


if __name__ == "__main__":
    run()
