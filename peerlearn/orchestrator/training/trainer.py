"""Spans of training as the orchestrator performs them: on the learner's thread, recorded, and cut short when the peer
leaves."""

import asyncio
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from peerlearn.clock import now
from peerlearn.errors import KnowledgeError
from peerlearn.events import Decided, Evaluated, Gated, PhaseStarted, Record, Trained
from peerlearn.learning.learner import Learner
from peerlearn.learning.report import Report
from peerlearn.learning.snapshot import Snapshot
from peerlearn.orchestrator.training import gated, spans
from peerlearn.orchestrator.training.compute import Compute
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.orchestrator.training.gated import TransferOutcome
from peerlearn.schedule import Local, Transfer
from peerlearn.strategies.base import Strategy

P = ParamSpec("P")
T = TypeVar("T")

Measure = Callable[[gated.Predict], Mapping[str, float]]
"""Metrics of a model that is given as a function from inputs to probabilities. Called on the learner's thread."""


class Left(Exception):
    """The peer leaves: the span under way has ended between two steps, or was taken back."""


class Trainer:
    """Runs one span at a time. Lives on the event loop; what it runs does not."""

    def __init__(
        self,
        learner: Learner,
        strategy: Strategy,
        compute: Compute,
        *,
        gate: Gate,
        record: Record,
        measure: Measure | None,
        names: Callable[[tuple[str, ...]], tuple[str, ...]],
    ) -> None:
        """`names`: of providers, by id, as people know them."""
        self._learner = learner
        self._strategy = strategy
        self._compute = compute
        self._gate = gate
        self._record = record
        self._measure = measure
        self._names = names
        self._span: asyncio.Timeout | None = None
        self._leaving = False

    def stop(self) -> None:
        """End the span under way between two of its steps; nothing is measured any more."""
        self._leaving = True
        if self._span is not None and not self._span.expired():
            self._span.reschedule(now())

    async def local(self, phase: Local, round_: int, *, into: int, between: Callable[[], None] | None) -> Report:
        """A local span, of which `into` steps were made before. `between` is called between two steps.

        Raises Left when the peer leaves meanwhile; the learner's count of steps says how far it came.
        """
        began = self._begin("local", round_, ())
        report = await self._run(spans.local, self._strategy, self._learner, phase.span, into=into, between=between)
        self._end("local", round_, report, began)
        await self.evaluate("local", round_)
        return report

    async def transfer(self, phase: Transfer, round_: int, teachers: tuple[str, ...]) -> TransferOutcome:
        """A gated transfer span from these teachers, given by name. Raises Left, with nothing changed."""
        began = self._begin("transfer", round_, teachers)
        try:
            outcome = await self._run(gated.gated_transfer, self._strategy, self._learner, phase.span, self._gate)
        except KnowledgeError as exc:
            self._record(Decided(round=round_, why=f"transfer abandoned, nothing changed: {exc}"))
            outcome = TransferOutcome(Report(committed=False), None)
        self._end("transfer", round_, outcome.report, began)
        if (verdict := outcome.verdict) is not None:
            self._record(
                Gated(
                    round=round_, before=verdict.before, after=verdict.after, kept=verdict.kept, why=verdict.why,
                    providers=teachers,
                )
            )  # fmt: skip
        return outcome

    async def snapshot(self, version: int) -> tuple[Snapshot, tuple[int, ...]]:
        """A snapshot of this version, and the class counts that go with it."""
        return await self._compute.run(gated.snapshot, self._strategy, self._learner, version)

    async def _run(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A span on the learner's thread. Raises Left, once the call has ended, when the peer leaves meanwhile."""
        done: list[T] = []
        try:
            async with asyncio.timeout(None) as self._span:
                await self._compute.run(lambda: done.append(func(*args, **kwargs)))
        except TimeoutError:
            if self._span is None or not self._span.expired():
                raise
            if not done:
                raise Left from None
        finally:
            self._span = None
        return done[0]

    def _begin(self, phase: str, round_: int, providers: tuple[str, ...]) -> float:
        self._record(PhaseStarted(round=round_, phase=phase, providers=providers))
        return now()

    def _end(self, phase: str, round_: int, report: Report, began: float) -> None:
        self._record(
            Trained(
                round=round_, phase=phase, steps=report.steps, samples=report.samples, loss=report.loss,
                seconds=now() - began, providers=self._names(report.providers) if report.providers else (),
                notes=report.notes,
            )
        )  # fmt: skip

    async def evaluate(self, phase: str, round_: int) -> None:
        """Record the app's own metrics of the model as it is now."""
        if self._measure is None or self._leaving:
            return
        metrics = await self._compute.run(gated.measured, self._strategy, self._learner, self._measure)
        self._record(Evaluated(round=round_, phase=phase, metrics=metrics))
