"""Store: the checkpoints of a run on disk, by name, and which of them are used to resume it.

`state` is written at each snapshot, before other peers are told of the snapshot. `previous` is the one before, in case
`state` is damaged. `span` is written between two snapshots, and is used only on top of the `state` that it follows.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peerlearn.errors import KnowledgeError, StateError
from peerlearn.learning import checkpoint
from peerlearn.learning.learner import Learner
from peerlearn.orchestrator.checkpointing.progress import Progress
from peerlearn.strategies.base import Strategy

FOLDER = "checkpoint"
STATE = "state"
PREVIOUS = "previous"
SPAN = "span"
DAMAGED = "damaged"

__all__ = ["DAMAGED", "FOLDER", "PREVIOUS", "SPAN", "STATE", "Progress", "Store"]


class Store:
    """The checkpoints in a state directory. Called on the learner's thread."""

    def __init__(self, directory: Path, learner: Learner, strategy: Strategy) -> None:
        self._folder = directory / FOLDER
        self._learner = learner
        self._strategy = strategy
        self.trouble = ""
        """Why resuming passed over a checkpoint, in a sentence; empty if it did not."""

    # ---------------------------------------------------------------- writing

    def save(self, progress: Progress) -> str:
        """Write the checkpoint of a snapshot, and return its folder. All or nothing: a crash leaves the former
        checkpoint or this one. Raises StateError."""
        where = self.write(self._tree(progress), STATE)
        self.drop(SPAN)
        return where

    def save_between(self, progress: Progress) -> str:
        """Write a checkpoint between two snapshots, and return its folder. The former `state` stays: it is the version
        that others know. Raises StateError."""
        return self.write(self._tree(progress), SPAN)

    def _tree(self, progress: Progress) -> dict[str, Any]:
        return {
            "progress": progress.as_tree(),
            "strategy_name": self._strategy.name,
            "learner": self._learner.state_dict(),
            "strategy": dict(self._strategy.state_dict()),
        }

    # ---------------------------------------------------------------- reading

    def resume(self) -> Progress | None:
        """Load the checkpoint of the latest snapshot into learner and strategy, and return its progress; None if
        nothing is saved yet. Raises StateError if it does not fit, or if no checkpoint can be read."""
        kept = self._sound()
        return None if kept is None else self._take(kept)

    def resume_before(self) -> Progress | None:
        """As `resume`, for the snapshot before the latest; None if there is none."""
        try:
            kept = self.read(PREVIOUS)
        except StateError:
            return None
        return None if kept is None else self._take(kept)

    def resume_between(self, at: Progress) -> Progress | None:
        """As `resume`, for the last save after the snapshot at `at`; None if nothing was saved since."""
        try:
            kept = self.read(SPAN)
        except StateError as exc:
            self.trouble = f"{exc}; what was learned since version {at.version} is learned again"
            return None
        if kept is None or kept.get("progress", {}).get("version") != at.version:
            return None
        return self._take(kept)

    def _sound(self) -> Mapping[str, Any] | None:
        """The latest checkpoint that can be read. A damaged one is renamed, not overwritten."""
        try:
            if (kept := self.read(STATE)) is not None:
                return kept
            damage = None
        except StateError as exc:
            damage = exc
        try:
            before = self.read(PREVIOUS)
        except StateError:
            before = None
        if before is None:
            if damage is not None:
                raise damage
            return None
        if damage is not None:
            self.trouble = f"{damage}; going on from the one before it (it is kept as {DAMAGED}.safetensors)"
            self.set_aside()
        return before

    def _take(self, kept: Mapping[str, Any]) -> Progress:
        if kept.get("strategy_name") != self._strategy.name:
            raise StateError(
                f"{self._folder} holds a run by {kept.get('strategy_name')!r}, not by {self._strategy.name!r}: "
                "use that strategy, or another state directory"
            )
        try:
            self._learner.load_state_dict(kept["learner"])
            self._strategy.load_state_dict(kept["strategy"])
            return Progress.of_tree(kept["progress"])
        except (KeyError, TypeError, ValueError, KnowledgeError, StateError) as exc:
            raise StateError(
                f"{self._folder} does not fit this model and data ({exc}): use the ones it was made with, "
                "or another state directory"
            ) from exc

    # ---------------------------------------------------------------- files: a simulation overrides these

    def open(self) -> None:
        """Make the folder. If it is missing later, it was deleted during the run. Raises StateError."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise StateError(
                f"cannot keep checkpoints in {self._folder}: {exc.strerror or exc}; choose another state directory"
            ) from exc

    def write(self, tree: Mapping[str, Any], name: str) -> str:
        """Write `tree` by this name, and return its folder. The former STATE becomes PREVIOUS. Raises StateError."""
        if not self._folder.is_dir():
            raise StateError(
                f"the state directory {self._folder.parent} is gone: put it back, or start again with another one"
            )
        checkpoint.save(self._folder, tree, name=name, former=PREVIOUS if name == STATE else "")
        return str(self._folder)

    def read(self, name: str) -> Mapping[str, Any] | None:
        """The tree last written by this name; None if there is none. Raises StateError if it is damaged."""
        return checkpoint.load(self._folder, name=name) if checkpoint.exists(self._folder, name=name) else None

    def drop(self, name: str) -> None:
        """Delete the tree of this name. Raises StateError."""
        checkpoint.remove(self._folder, name=name)

    def set_aside(self) -> None:
        """Rename a damaged STATE, so that it can be examined and no later save turns it into PREVIOUS."""
        checkpoint.rename(self._folder, STATE, DAMAGED)
        self.drop(SPAN)
