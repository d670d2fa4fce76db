"""The shell around plan(): performs one step after another, and never awaits the network itself."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

from peerlearn.clock import now
from peerlearn.errors import ConfigError, KnowledgeError, PeerStopped, StateError
from peerlearn.knowledge import Received
from peerlearn.learning.learner import Learner
from peerlearn.learning.report import Report
from peerlearn.orchestrator import training
from peerlearn.orchestrator.compute import Compute
from peerlearn.orchestrator.exchange import Exchanges
from peerlearn.orchestrator.gate import Gate
from peerlearn.orchestrator.news import Company
from peerlearn.orchestrator.pace import Barrier
from peerlearn.orchestrator.plan import (
    Ask,
    Collect,
    MakeSnapshot,
    Receive,
    Rest,
    Skip,
    Step,
    Train,
    View,
    Wait,
    plan,
)
from peerlearn.orchestrator.snapshots import Snapshots
from peerlearn.orchestrator.store import Progress
from peerlearn.recording import Decided, Evaluated, Gated, PhaseStarted, Published, Record, Saved, Trained
from peerlearn.schedule import Exchange, Local, Phase, Schedule, Transfer
from peerlearn.strategies.base import Strategy
from peerlearn.types import PeerId

Measure = Callable[[training.Predict], Mapping[str, float]]
"""Metrics of a model that is given as a function from inputs to probabilities. Called on the learner's thread."""


class Orchestrator:
    """Owns the learner's thread and the tasks that wait for others. State changes between two awaits, here only."""

    def __init__(
        self,
        learner: Learner,
        strategy: Strategy,
        *,
        schedule: Schedule,
        exchanges: Callable[[Callable[[], None]], Exchanges],
        snapshots: Snapshots,
        compute: Compute,
        company: Company,
        barrier: Barrier,
        gate: Gate,
        record: Record,
        measure: Measure | None = None,
        save: Callable[[Progress], str] | None = None,
        published: Callable[[int, tuple[int, ...]], None] = lambda version, histogram: None,
        round_ended: Callable[[tuple[PeerId, ...]], None] = lambda taught_by: None,
    ) -> None:
        self._learner = learner
        self._strategy = strategy
        self._schedule = schedule
        self._exchanges = exchanges(self.wake)
        self._snapshots = snapshots
        self._compute = compute
        self._company = company
        self._barrier = barrier
        self._gate = gate
        self._record = record
        self._measure = measure
        self._save = save
        self._published = published
        self._round_ended = round_ended

        self.round = 0
        self.version = 0
        self.last_transfer = Report()
        self._goal: int | None = 0
        self._app_trains = False
        self._cursor = 0
        self._first = schedule.first
        self._triggered: deque[Phase] = deque()
        self._brought: deque[Received] = deque()
        self._changed = asyncio.Event()
        self._rested = asyncio.Event()
        self._driven = self._over = False

    # ---------------------------------------------------------------- driven from outside

    def resume(self, progress: Progress) -> None:
        """Go on where a saved run stood; before anything is published. Raises StateError."""
        if not 0 <= progress.cursor < max(1, len(self._schedule.phases)):
            raise StateError(f"the saved run stood at phase {progress.cursor} of a schedule that this one is not")
        self.round, self.version, self._cursor = progress.round, progress.version, progress.cursor
        self._first = ()

    async def publish_first(self) -> None:
        """The first snapshot: from here on questions can be answered."""
        await self._make_snapshot(self.version)

    async def rounds(self, amount: int | None, *, app_trains: bool = False) -> None:
        """Do `amount` more rounds (None: until cancelled). With `app_trains`, local phases are left to the app."""
        if self._driven:
            raise ConfigError("one run() or transfer() at a time: another one of this peer is still under way")
        self._driven = True
        self._app_trains = app_trains
        self._goal = None if amount is None else self.round + amount
        self._triggered.extend(self._first)
        self._first = ()
        self.last_transfer = Report()
        self._rested.clear()
        self._changed.set()
        try:
            await self._rested.wait()
        finally:
            self._driven = False
            self._goal = self.round
        if self._over:
            raise PeerStopped("this peer has stopped: its block was left, or a step failed")

    def arrived(self, received: Received) -> None:
        """Somebody brought knowledge with a question."""
        self._brought.append(received)
        self.wake()

    def wake(self) -> None:
        """Something changed that the next step may depend on."""
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled. Bugs propagate; failed exchanges are recorded, and learning goes on."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(), name="orchestrator:news")
                while True:
                    self._changed.clear()
                    await self._perform(plan(self._view(), self._schedule), tasks)
        finally:
            self._over = True
            self._rested.set()

    async def _listen(self) -> None:
        while True:
            await self._company.news()
            self._changed.set()

    # ---------------------------------------------------------------- plan and perform

    def _view(self) -> View:
        return View(
            round=self.round,
            goal=self._goal,
            cursor=self._cursor,
            triggered=tuple(self._triggered),
            arrivals=len(self._brought),
            asked=self._exchanges.asked,
            nobody=self._exchanges.nobody,
            in_flight=self._exchanges.in_flight,
            behind=self._barrier.behind(self.version),
            app_trains=self._app_trains,
        )

    async def _perform(self, step: Step, tasks: asyncio.TaskGroup) -> None:  # noqa: C901 (a table, not a tangle)
        match step:
            case Receive():
                if await self._exchanges.receive(self._brought.popleft(), round_=self.round):
                    self._trigger(("received",))
            case Ask(exchange):
                at = self.version if self._barrier.lockstep else None
                due_now = self._exchange_is_due()
                await self._exchanges.ask(tasks, exchange, round_=self.round, at=at, due_now=due_now)
            case Collect():
                await self._exchanges.collect(round_=self.round)
                self._advance()
            case Train(Local() as phase):
                await self._local(phase)
            case Train(Transfer() as phase):
                await self._transfer(phase)
            case MakeSnapshot():
                await self._make_snapshot(self.version + 1)
                self._advance()
                await self._keep()
            case Skip():
                self._advance()
            case Wait():
                await self._barrier.wait(self._changed)
            case Rest():
                self._rested.set()
                await self._changed.wait()

    def _exchange_is_due(self) -> bool:
        due = self._triggered[0] if self._triggered else self._schedule.phases[self._cursor]
        return isinstance(due, Exchange)

    def _advance(self) -> None:
        self._exchanges.nobody = False
        if self._triggered:
            self._triggered.popleft()
            return
        self._cursor += 1
        if self._cursor == len(self._schedule.phases):
            self._cursor = 0
            self.round += 1
            self._round_ended(tuple(sorted(self._exchanges.taught_by)))

    def _trigger(self, events: tuple[str, ...]) -> None:
        for event in events:
            self._triggered.extend(self._schedule.on.get(event, ()))

    # ---------------------------------------------------------------- training

    async def _local(self, phase: Local) -> None:
        began = self._begin("local", ())
        report = await self._compute.run(self._strategy.local, self._learner, phase.span)
        self._end("local", report, began)
        await self._evaluate("local")
        self._advance()
        self._trigger(report.events)

    async def _transfer(self, phase: Transfer) -> None:
        teachers = self._teachers()
        began = self._begin("transfer", teachers)
        try:
            outcome = await self._compute.run(
                training.gated_transfer, self._strategy, self._learner, phase.span, self._gate
            )
        except KnowledgeError as exc:
            self._record(Decided(round=self.round, why=f"transfer abandoned, nothing changed: {exc}"))
            outcome = training.Outcome(Report(committed=False), None)
        self.last_transfer = outcome.report
        self._end("transfer", outcome.report, began)
        if (verdict := outcome.verdict) is not None:
            self._record(
                Gated(
                    round=self.round, before=verdict.before, after=verdict.after, kept=verdict.kept,
                    why=verdict.why, providers=teachers,
                )
            )  # fmt: skip
            await self._evaluate("transfer")
        self._advance()
        self._trigger(outcome.report.events)

    def _begin(self, phase: str, providers: tuple[str, ...]) -> float:
        self._record(PhaseStarted(round=self.round, phase=phase, providers=providers))
        return now()

    def _end(self, phase: str, report: Report, began: float) -> None:
        self._record(
            Trained(
                round=self.round, phase=phase, steps=report.steps, samples=report.samples, loss=report.loss,
                seconds=now() - began, providers=self._exchanges.names(report.providers), notes=report.notes,
            )
        )  # fmt: skip

    async def _evaluate(self, phase: str) -> None:
        if self._measure is None:
            return
        metrics = await self._compute.run(training.measured, self._strategy, self._learner, self._measure)
        self._record(Evaluated(round=self.round, phase=phase, metrics=metrics))

    def _teachers(self) -> tuple[str, ...]:
        return self._exchanges.names(sorted(self._exchanges.taught_by))

    async def _make_snapshot(self, version: int) -> None:
        snapshot, histogram = await self._compute.run(training.snapshot, self._strategy, self._learner, version)
        self.version = version
        self._snapshots.publish(snapshot)
        self._published(version, histogram)
        self._record(Published(round=self.round, version=version))

    async def _keep(self) -> None:
        if self._save is not None:
            began = now()
            path = await self._compute.run(self._save, Progress(self.round, self.version, self._cursor))
            self._record(Saved(round=self.round, path=path, seconds=now() - began))
