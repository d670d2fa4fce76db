"""Saving: decides when a run is saved. A save that fails is recorded and tried again, and learning goes on."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from peerlearn.errors import StateError
from peerlearn.events import Record, Resumed, Saved, SaveFailed
from peerlearn.orchestrator.checkpointing.progress import Progress
from peerlearn.orchestrator.checkpointing.store import Store
from peerlearn.orchestrator.training.compute import Compute

SAVE_EVERY = 30.0
"""Seconds of a long span that a crash may cost. A few MB written at this pace do not wear out a memory card."""
_LEAST = 1.0
"""Least seconds between two saves after short spans: losing less than a second of training is not worth a write."""
_SHARE = 20
"""After a span, a save comes at the earliest 20 times its own duration after the last one: saving then takes about 5 %
of the time at most."""


class Saving:
    """Saves and resumes a run. Lives on the event loop and writes on the learner's thread.

    A snapshot is on disk before other peers are told of it: a peer that is killed never comes back with an older
    version than others know.
    """

    def __init__(self, store: Store, *, compute: Compute, record: Record, every: float) -> None:
        self._store = store
        self._compute = compute
        self._record = record
        self._every = every
        self._clock: Callable[[], float] = lambda: 0.0
        self._at = 0.0
        self._cost = 0.0
        self._anchored = False
        self._said = ""
        self.stale = False
        """True if something has changed since the last save."""

    async def resume(self) -> Progress | None:
        """Load the checkpoint of the latest snapshot into learner and strategy, and return its progress; None if there
        is none. Raises StateError."""
        self._clock = asyncio.get_running_loop().time  # may be read from the learner's thread
        self._at = self._clock()
        await self._compute.run(self._store.open)
        kept = await self._compute.run(self._store.resume)
        self._anchored = kept is not None
        return kept

    async def resume_before(self, at: Progress) -> Progress | None:
        """As `resume`, for the version before the one at `at`; None if it is not kept."""
        before = await self._compute.run(self._store.resume_before)
        return before if before is not None and before.version == at.version - 1 else None

    async def resume_between(self, at: Progress) -> Progress:
        """Load what was saved since the snapshot at `at`, if anything, and record that the run resumes from there."""
        since = await self._compute.run(self._store.resume_between, at) or at
        self._record(Resumed(round=since.round, version=since.version, why=self._store.trouble))
        return since

    async def at_snapshot(self, progress: Callable[[], Progress]) -> None:
        """Save a snapshot; call it before other peers are told of the snapshot. `progress` gives the state of the
        run."""
        await self._compute.run(self._write, progress(), snapshot=True)

    async def after_span(self, progress: Callable[[], Progress]) -> None:
        """Save between two snapshots, if enough time has passed since the last save."""
        pause = min(self._every, max(_LEAST, _SHARE * self._cost))
        if self.stale and self._clock() - self._at >= pause:
            await self._compute.run(self._write, progress())

    async def at_the_end(self, progress: Callable[[], Progress]) -> None:
        """Save if anything has changed since the last save."""
        if self.stale:
            await self._compute.run(self._write, progress())

    def on_the_way(self, progress: Progress, steps: Callable[[], int]) -> Callable[[], None]:
        """A function to call between two steps of a local span that begins at `progress`, on the learner's thread; it
        saves every `every` seconds. `steps` gives the learner's step count."""
        began = steps()

        def look() -> None:
            if self._clock() - self._at >= self._every:
                self._write(replace(progress, into=progress.into + steps() - began))

        return look

    def _write(self, progress: Progress, *, snapshot: bool = False) -> None:
        """Save, on the learner's thread. If the last snapshot could not be saved, a save between snapshots would have
        nothing to build on, and is written as a snapshot instead."""
        whole = snapshot or not self._anchored
        began = self._clock()
        try:
            path = self._store.save(progress) if whole else self._store.save_between(progress)
        except StateError as exc:
            self._anchored = self._anchored and not snapshot
            self._say(progress.round, str(exc))
        else:
            self._anchored, self._said, self.stale = True, "", False
            self._cost = self._clock() - began
            self._record(Saved(round=progress.round, path=path, seconds=self._cost))
        self._at = self._clock()

    def _say(self, round_: int, why: str) -> None:
        if why != self._said:
            self._record(SaveFailed(round=round_, why=why))
            self._said = why
