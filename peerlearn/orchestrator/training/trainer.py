"""Trainer: runs spans on the learner's thread, records them, and cuts them short when the peer leaves."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from peerlearn.clock import now
from peerlearn.errors import KnowledgeError
from peerlearn.events import Decided, Evaluated, Gated, PhaseStarted, Record, Trained
from peerlearn.learning.fence import HarmfulKnowledge
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
log = logging.getLogger("peerlearn")

Measure = Callable[[gated.Predict], Mapping[str, float]]
"""The app's metrics by name, from a function from inputs (B, ...) to probabilities (B, C). Called on the learner's
thread."""


class Left(Exception):
    """Raised when the peer leaves: the span under way has ended between two steps, or was rolled back."""


class Trainer:
    """Runs one span at a time. Lives on the event loop, and runs the span itself on the learner's thread."""

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
        """`names`: gives the names of providers from their ids."""
        self._learner = learner
        self._strategy = strategy
        self._compute = compute
        self._gate = gate
        self._record = record
        self._measure = measure
        self._names = names
        self._span: asyncio.Timeout | None = None
        self._leaving = self._measure_failed = False

    def stop(self) -> None:
        """End the span under way between two of its steps, and measure nothing from now on."""
        self._leaving = True
        if self._span is not None and not self._span.expired():
            self._span.reschedule(now())

    async def local(self, phase: Local, round_: int, *, into: int, between: Callable[[], None] | None) -> Report:
        """Run a local span, of which `into` steps were made before. `between` is called between two steps, on the
        learner's thread.

        Raises Left if the peer leaves meanwhile; the learner's step count says how far the span came.
        """
        began = self._begin("local", round_, ())
        report = await self._run(spans.local, self._strategy, self._learner, phase.span, into=into, between=between)
        self._end("local", round_, report, began)
        await self.evaluate("local", round_)
        return report

    async def transfer(self, phase: Transfer, round_: int, teachers: tuple[str, ...]) -> TransferOutcome:
        """Run a gated transfer span. `teachers`: names of the providers, for events. Raises Left, with nothing
        changed."""
        began = self._begin("transfer", round_, teachers)
        try:
            outcome = await self._run(gated.gated_transfer, self._strategy, self._learner, phase.span, self._gate)
        except KnowledgeError as exc:
            self._record(Decided(round=round_, why=f"transfer abandoned, nothing changed: {exc}"))
            harm = str(exc) if isinstance(exc, HarmfulKnowledge) else ""
            outcome = TransferOutcome(Report(committed=False), None, failed=harm)
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
        """A snapshot with this version, and its class counts (C,)."""
        return await self._compute.run(gated.snapshot, self._strategy, self._learner, version)

    async def _run(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a span on the learner's thread. Raises Left, after the call has ended, if the peer leaves meanwhile."""
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
        """Record the app's own metrics of the current model. A `measure` that fails is logged once, and training goes
        on."""
        if self._measure is None or self._leaving:
            return
        try:
            metrics = await self._compute.run(gated.measured, self._strategy, self._learner, self._measure)
        except Exception as exc:
            if not self._measure_failed:
                log.warning("the function given as `measure` failed, and its metrics are lost: %r", exc)
                log.debug("in the function given as `measure`", exc_info=exc)
            self._measure_failed = True
            return
        self._record(Evaluated(round=round_, phase=phase, metrics=metrics))
