"""Orchestrator: performs the steps that plan() chooses, one after another. It never awaits the network itself."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from peerlearn.errors import ConfigError, PeerStopped, StateError
from peerlearn.events import Published, Record, discard
from peerlearn.knowledge import Received
from peerlearn.learning.learner import Learner
from peerlearn.learning.report import Report
from peerlearn.learning.snapshot import Snapshot
from peerlearn.orchestrator.checkpointing.policy import Saving
from peerlearn.orchestrator.checkpointing.progress import Progress
from peerlearn.orchestrator.consumer.exchange import Exchanges
from peerlearn.orchestrator.directory_view import DirectoryView
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
from peerlearn.orchestrator.provider.snapshots import Snapshots
from peerlearn.orchestrator.training.compute import Compute
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.orchestrator.training.trainer import Left, Measure, Trainer
from peerlearn.schedule import Exchange, Local, Phase, Schedule, Transfer
from peerlearn.status import QuarantinedPeer
from peerlearn.strategies.base import Strategy
from peerlearn.types import Card, PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Functions that the orchestrator calls. All but `measure` are called on the event loop, and must not block."""

    record: Record = discard
    """Takes events."""
    measure: Measure | None = None
    """Computes the app's metrics after each span, on the learner's thread."""
    published: Callable[[int, tuple[int, ...]], None] = lambda version, histogram: None
    """Called after each snapshot with its version and its class counts, (C,)."""
    round_ended: Callable[[tuple[PeerId, ...]], None] = lambda taught_by: None
    """Called at the end of a round with the providers whose knowledge the strategy holds, in id order."""


class Orchestrator:
    """Runs the rounds of one peer. Lives on the event loop; the state of the run changes here only, between two awaits,
    so that it needs no lock.
    """

    def __init__(
        self,
        learner: Learner,
        strategy: Strategy,
        *,
        schedule: Schedule,
        exchanges: Exchanges,
        snapshots: Snapshots,
        compute: Compute,
        directory: DirectoryView,
        barrier: Barrier | None,
        gate: Gate,
        saving: Saving | None,
        hooks: Hooks,
    ) -> None:
        """`barrier`: None in free pace. `saving`: None if no checkpoints are kept."""
        self._learner = learner
        self._schedule = schedule
        self._exchanges = exchanges
        self._changed = asyncio.Event()
        exchanges.changed = self._changed.set  # not self.wake: no reference cycle, see Assembly._showing
        self._snapshots = snapshots
        self._directory = directory
        self._barrier = barrier
        self._saving = saving
        self._hooks = hooks
        self._trainer = Trainer(
            learner, strategy, compute, gate=gate, record=hooks.record, measure=hooks.measure, names=exchanges.names
        )

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
        self._rested = asyncio.Event()
        self._ended = asyncio.Event()
        self._driven = self._over = self._leaving = False

    # ---------------------------------------------------------------- driven from outside

    async def start(self) -> None:
        """Resume the saved run, if there is one, and publish its snapshot; from then on questions can be answered.
        Raises StateError if the saved run does not fit."""
        kept = await self._saving.resume() if self._saving is not None else None
        if self._saving is None or kept is None:
            if self._saving is not None:
                await self._saving.at_snapshot(self._progress)
            return self._show(await self._trainer.snapshot(self.version), self.round)
        if self._barrier is not None and await self._saving.resume_before(kept) is not None:
            # Lockstep: a slower consumer may still ask for the version before the latest.
            snapshot, _ = await self._trainer.snapshot(kept.version - 1)
            self._snapshots.publish(snapshot)
            kept = await self._saving.resume() or kept  # once more: `resume_before` has loaded the older state
        self._stand(kept)
        # The snapshot first: others know this version by its state, not by what was learned after it.
        self._show(await self._trainer.snapshot(self.version), self.round)
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
        """Do `amount` more rounds; None: until cancelled. With `app_trains`, local phases are left to the app.

        Raises ConfigError if another call is under way, PeerStopped if the peer stops meanwhile.
        """
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
        """Take knowledge that a consumer brought with its question; the strategy receives it before the next step."""
        self._brought.append(received)
        self.wake()

    def quarantine_reason(self, giver: Card, version: int) -> str | None:
        """Why knowledge that this peer brings at this version is refused; None if it is accepted."""
        return self._exchanges.reputation.why(giver, version)

    @property
    def quarantined(self) -> tuple[QuarantinedPeer, ...]:
        """Providers whose knowledge is not used now."""
        return self._exchanges.reputation.quarantined

    def teachers(self) -> tuple[str, ...]:
        """Names of the providers whose knowledge the strategy holds, in id order."""
        return self._exchanges.names(sorted(self._exchanges.taught_by))

    def wake(self) -> None:
        """Let `run` look again for a step: something has changed that the next step may depend on."""
        self._changed.set()

    async def run(self) -> None:
        """Perform steps until `stop` is called. A failed exchange is recorded, and learning goes on; any other
        exception propagates."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(), name="orchestrator:news")
                while not self._leaving:
                    self._changed.clear()
                    await self._perform(plan(self._view(), self._schedule), tasks)
                if self._saving is not None:
                    self._saving.stale |= self._app_trains
                    await self._saving.at_the_end(self._progress)
                raise Left
        except BaseExceptionGroup as caught:
            others = caught.split(Left)[1]
            if others is not None:
                raise others from None
            # The traceback, a frame of asyncio and the group form a cycle that would keep this peer's model in memory.
            caught.__traceback__ = None
        finally:
            self._over = True
            self._rested.set()
            self._ended.set()

    def stop(self) -> None:
        """End the step under way (a span of training ends between two optimizer steps), and let `run` save and return.
        Does not wait."""
        self._leaving = True
        self.wake()
        self._trainer.stop()

    async def leave(self) -> None:
        """Stop, and wait until `run` has saved and ended."""
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
            behind=self._barrier.behind(self.version) if self._barrier is not None else (),
            app_trains=self._app_trains,
        )

    async def _perform(self, step: Step, tasks: asyncio.TaskGroup) -> None:  # noqa: C901 (a table, not a tangle)
        if self._saving is not None:
            self._saving.stale |= isinstance(step, Receive | Collect | Train)
        match step:
            case Receive():
                if await self._exchanges.receive(self._brought.popleft(), round_=self.round):
                    self._trigger(("received",))
            case Ask(exchange):
                at = self.version if self._barrier is not None else None
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
                await self._publish()
            case Skip():
                self._into = 0
                self._advance()
            case Wait():
                await (self._barrier.wait(self._changed) if self._barrier is not None else self._changed.wait())
            case Rest():
                self._rested.set()
                await self._changed.wait()

    def _amid(self) -> bool:
        """True if a resumed local span is still to be finished. Knowledge that arrives meanwhile waits, as it would
        have waited during the uninterrupted span."""
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
            self._hooks.round_ended(tuple(sorted(self._exchanges.taught_by)))

    def _trigger(self, events: tuple[str, ...]) -> None:
        for event in events:
            self._triggered.extend(self._schedule.on.get(event, ()))

    # ---------------------------------------------------------------- training

    async def _local(self, phase: Local) -> None:
        before = self._learner.steps
        between = self._saving.on_the_way(self._progress(), self._steps) if self._saving is not None else None
        try:
            report = await self._trainer.local(phase, self.round, into=self._into, between=between)
        except Left:
            self._into += self._learner.steps - before
            return
        self._into = 0
        await self._after_span(report)

    async def _transfer(self, phase: Transfer) -> None:
        try:
            outcome = await self._trainer.transfer(phase, self.round, self.teachers())
        except Left:
            return
        self.last_transfer = outcome.report
        if outcome.failed:
            await self._exchanges.judge(outcome, round_=self.round)
        if outcome.verdict is not None:
            await self._exchanges.judge(outcome, round_=self.round)
            await self._trainer.evaluate("transfer", self.round)
        await self._after_span(outcome.report)

    async def _after_span(self, report: Report) -> None:
        self._advance()
        self._trigger(report.events)
        if self._saving is not None:
            await self._saving.after_span(self._progress)

    def _steps(self) -> int:
        return self._learner.steps

    async def _publish(self) -> None:
        """Make a snapshot, save it, and then announce it: a crash in between never leaves others with a version that
        this peer has lost."""
        made, round_ = await self._trainer.snapshot(self.version + 1), self.round
        self.version += 1
        self._advance()
        if self._saving is not None:
            await self._saving.at_snapshot(self._progress)
        self._show(made, round_)

    def _show(self, made: tuple[Snapshot, tuple[int, ...]], round_: int) -> None:
        snapshot, histogram = made
        self._snapshots.publish(snapshot)
        self._exchanges.histogram = histogram
        self._hooks.published(snapshot.version, histogram)
        self._hooks.record(Published(round=round_, version=snapshot.version))
