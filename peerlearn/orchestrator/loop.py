"""The shell around plan(): performs one step after another, and never awaits the network itself."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from peerlearn.clock import now
from peerlearn.errors import ConfigError, KnowledgeError, PeerStopped, StateError
from peerlearn.events import Decided, Evaluated, Gated, PhaseStarted, Published, Record, Trained
from peerlearn.knowledge import Received
from peerlearn.learning.learner import Learner
from peerlearn.learning.report import Report
from peerlearn.learning.snapshot import Snapshot
from peerlearn.orchestrator.checkpointing.policy import Saving
from peerlearn.orchestrator.checkpointing.progress import Progress
from peerlearn.orchestrator.consumer.exchange import Exchanges
from peerlearn.orchestrator.directory_view import DirectoryView
from peerlearn.orchestrator.pace import Barrier
from peerlearn.orchestrator.plan import Ask, Collect, MakeSnapshot, Receive, Rest, Skip, Step, Train, View, Wait, plan
from peerlearn.orchestrator.provider.snapshots import Snapshots
from peerlearn.orchestrator.training import gated as training
from peerlearn.orchestrator.training import spans
from peerlearn.orchestrator.training.compute import Compute
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.schedule import Exchange, Local, Phase, Schedule, Transfer
from peerlearn.status import QuarantinedPeer
from peerlearn.strategies.base import Strategy
from peerlearn.types import Card, PeerId

P = ParamSpec("P")
T = TypeVar("T")
Measure = Callable[[training.Predict], Mapping[str, float]]
"""Metrics of a model that is given as a function from inputs to probabilities. Called on the learner's thread."""


class _Left(Exception):
    """This peer leaves: the span under way has ended between two steps, or was taken back."""


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
        directory: DirectoryView,
        barrier: Barrier,
        gate: Gate,
        record: Record,
        saving: Saving,
        measure: Measure | None = None,
        published: Callable[[int, tuple[int, ...]], None] = lambda version, histogram: None,
        round_ended: Callable[[tuple[PeerId, ...]], None] = lambda taught_by: None,
    ) -> None:
        self._learner = learner
        self._strategy = strategy
        self._schedule = schedule
        self._exchanges = exchanges(self.wake)
        self._snapshots = snapshots
        self._compute = compute
        self._directory = directory
        self._barrier = barrier
        self._gate = gate
        self._record = record
        self._measure = measure
        self._saving = saving
        self._published = published
        self._round_ended = round_ended

        self.round = 0
        self.version = 0
        self.last_transfer = Report()
        self._goal: int | None = 0
        self._app_trains = False
        self._cursor = 0
        self._into = 0
        self._first = schedule.first
        self._triggered: deque[Phase] = deque()
        self._brought: deque[Received] = deque()
        self._changed = asyncio.Event()
        self._rested = asyncio.Event()
        self._ended = asyncio.Event()
        self._span: asyncio.Timeout | None = None
        self._driven = self._over = self._leaving = False

    # ---------------------------------------------------------------- driven from outside

    async def start(self) -> None:
        """Go on where a saved run stood, if there is one, and publish what is to be published: from here on questions
        can be answered. Raises StateError."""
        kept = await self._saving.resume()
        if kept is None:
            await self._saving.at_snapshot(self._progress())
            return self._show(await self._snapshot(self.version))
        if self._barrier.lockstep and await self._saving.resume_before(kept) is not None:
            snapshot, _ = await self._snapshot(kept.version - 1)  # somebody may not have got it yet
            self._snapshots.publish(snapshot)
            kept = await self._saving.resume() or kept
        self._stand(kept)
        self._show(await self._snapshot(self.version))
        self._stand(await self._saving.resume_between(kept))

    def _stand(self, at: Progress) -> None:
        if not 0 <= at.cursor < max(1, len(self._schedule.phases)):
            raise StateError(f"the saved run stood at phase {at.cursor} of a schedule that this one is not")
        self.round, self.version, self._cursor, self._into = at.round, at.version, at.cursor, at.into
        self._triggered = deque(at.triggered)
        self._first = self._schedule.first if at.first else ()
        self._exchanges.taught_by = set(at.taught_by)
        self._exchanges.reputation.restore(at.reputation)

    def _progress(self) -> Progress:
        return Progress(
            round=self.round, version=self.version, cursor=self._cursor, into=self._into,
            triggered=tuple(self._triggered), first=bool(self._first),
            taught_by=tuple(sorted(self._exchanges.taught_by)), reputation=self._exchanges.reputation_to_save(),
        )  # fmt: skip

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

    def quarantine_reason(self, giver: Card, version: int) -> str | None:
        """Why nothing is taken of this peer at this version; None: it may bring what it has."""
        return self._exchanges.reputation.why(giver, version)

    @property
    def quarantined(self) -> tuple[QuarantinedPeer, ...]:
        return self._exchanges.reputation.quarantined

    def teachers(self) -> tuple[str, ...]:
        """Names of those whose knowledge the strategy holds."""
        return self._exchanges.names(sorted(self._exchanges.taught_by))

    def wake(self) -> None:
        """Something changed that the next step may depend on."""
        self._changed.set()

    async def run(self) -> None:
        """Until told to leave. Bugs propagate; failed exchanges are recorded, and learning goes on."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(), name="orchestrator:news")
                while not self._leaving:
                    self._changed.clear()
                    await self._perform(plan(self._view(), self._schedule), tasks)
                self._saving.stale |= self._app_trains
                await self._saving.at_the_end(self._progress())
                raise _Left
        except* _Left:
            pass
        finally:
            self._over = True
            self._rested.set()
            self._ended.set()

    def stop(self) -> None:
        """End the step under way, a span of training between two of its own, and save, in the task that runs."""
        self._leaving = True
        self.wake()
        if self._span is not None and not self._span.expired():
            self._span.reschedule(now())

    async def leave(self) -> None:
        """The same, and wait until it is done."""
        self.stop()
        await self._ended.wait()

    async def _listen(self) -> None:
        while True:
            await self._directory.news()
            self._changed.set()

    # ---------------------------------------------------------------- plan and perform

    def _view(self) -> View:
        return View(
            round=self.round,
            goal=self._goal,
            cursor=self._cursor,
            triggered=tuple(self._triggered),
            arrivals=0 if self._amid() else len(self._brought),
            asked=self._exchanges.asked,
            nobody=self._exchanges.nobody,
            in_flight=self._exchanges.in_flight,
            behind=self._barrier.behind(self.version),
            app_trains=self._app_trains,
        )

    async def _perform(self, step: Step, tasks: asyncio.TaskGroup) -> None:  # noqa: C901 (a table, not a tangle)
        self._saving.stale |= isinstance(step, Receive | Collect | Train)
        match step:
            case Receive():
                if await self._exchanges.receive(self._brought.popleft(), tasks, round_=self.round):
                    self._trigger(("received",))
            case Ask(exchange):
                at = self.version if self._barrier.lockstep else None
                due_now = self._exchange_is_due()
                await self._exchanges.ask(tasks, exchange, round_=self.round, at=at, due_now=due_now)
            case Collect():
                await self._exchanges.collect(tasks, round_=self.round)
                self._advance()
            case Train(Local() as phase):
                await self._local(phase)
            case Train(Transfer() as phase):
                await self._transfer(phase, tasks)
            case MakeSnapshot():
                await self._publish()
            case Skip():
                self._into = 0
                self._advance()
            case Wait():
                await self._barrier.wait(self._changed)
            case Rest():
                self._rested.set()
                await self._changed.wait()

    def _amid(self) -> bool:
        """Whether a span that was cut in two has yet to be finished: what comes meanwhile waits, as it would have."""
        return self._into > 0 and (self._goal is None or self.round < self._goal)

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
        began, before = self._begin("local", ()), self._learner.steps
        between = self._saving.on_the_way(self._progress(), lambda: self._learner.steps)
        try:
            report = await self._train(
                spans.local, self._strategy, self._learner, phase.span, into=self._into, between=between
            )
        except _Left:
            self._into += self._learner.steps - before
            return
        self._end("local", report, began)
        await self._evaluate("local")
        self._into = 0
        self._advance()
        self._trigger(report.events)
        await self._saving.after_span(self._progress())

    async def _transfer(self, phase: Transfer, tasks: asyncio.TaskGroup) -> None:
        teachers = self.teachers()
        began = self._begin("transfer", teachers)
        try:
            outcome = await self._train(training.gated_transfer, self._strategy, self._learner, phase.span, self._gate)
        except _Left:
            return
        except KnowledgeError as exc:
            self._record(Decided(round=self.round, why=f"transfer abandoned, nothing changed: {exc}"))
            outcome = training.TransferOutcome(Report(committed=False), None)
        self.last_transfer = outcome.report
        self._end("transfer", outcome.report, began)
        if (verdict := outcome.verdict) is not None:
            self._record(
                Gated(
                    round=self.round, before=verdict.before, after=verdict.after, kept=verdict.kept,
                    why=verdict.why, providers=teachers,
                )
            )  # fmt: skip
            await self._exchanges.judge(outcome, tasks, round_=self.round)
            await self._evaluate("transfer")
        self._advance()
        self._trigger(outcome.report.events)
        await self._saving.after_span(self._progress())

    async def _train(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A span on the learner's thread. Raises _Left, once the call has ended, when this peer leaves meanwhile."""
        done: list[T] = []
        try:
            async with asyncio.timeout(None) as self._span:
                await self._compute.run(lambda: done.append(func(*args, **kwargs)))
        except TimeoutError:
            if self._span is None or not self._span.expired():
                raise
            if not done:
                raise _Left from None
        finally:
            self._span = None
        return done[0]

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
        if self._measure is None or self._leaving:
            return
        metrics = await self._compute.run(training.measured, self._strategy, self._learner, self._measure)
        self._record(Evaluated(round=self.round, phase=phase, metrics=metrics))

    async def _publish(self) -> None:
        """The snapshot is saved before anybody hears of it."""
        made, round_ = await self._snapshot(self.version + 1), self.round
        self.version += 1
        self._advance()
        await self._saving.at_snapshot(self._progress())
        self._show(made, round_=round_)

    async def _snapshot(self, version: int) -> tuple[Snapshot, tuple[int, ...]]:
        return await self._compute.run(training.snapshot, self._strategy, self._learner, version)

    def _show(self, made: tuple[Snapshot, tuple[int, ...]], *, round_: int | None = None) -> None:
        snapshot, histogram = made
        self._snapshots.publish(snapshot)
        self._published(snapshot.version, histogram)
        self._record(Published(round=self.round if round_ is None else round_, version=snapshot.version))
