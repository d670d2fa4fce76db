"""What is kept of a run so that it can go on: written whole at each snapshot, read once at the start."""

from pathlib import Path
from typing import NamedTuple

from peerlearn.errors import KnowledgeError, StateError
from peerlearn.learning import checkpoint
from peerlearn.learning.learner import Learner
from peerlearn.strategies.base import Strategy

FOLDER = "checkpoint"


class Progress(NamedTuple):
    """Where a run stands: rounds completed, versions published, the phase of the cycle that is due."""

    round: int
    version: int
    cursor: int


class Store:
    """The checkpoint in a state directory. Called on the learner's thread."""

    def __init__(self, directory: Path, learner: Learner, strategy: Strategy) -> None:
        self._folder = directory / FOLDER
        self._learner = learner
        self._strategy = strategy

    def save(self, progress: Progress) -> str:
        """All or nothing: a crash leaves the former checkpoint or this one. Raises StateError."""
        checkpoint.save(
            self._folder,
            {
                "progress": progress._asdict(),
                "strategy_name": self._strategy.name,
                "learner": self._learner.state_dict(),
                "strategy": dict(self._strategy.state_dict()),
            },
        )
        return str(self._folder)

    def resume(self) -> Progress | None:
        """Where to go on from; None when nothing is kept yet. Raises StateError when it does not fit."""
        if not self._folder.exists():
            return None
        kept = checkpoint.load(self._folder)
        if kept.get("strategy_name") != self._strategy.name:
            raise StateError(
                f"{self._folder} holds a run by {kept.get('strategy_name')!r}, not by {self._strategy.name!r}: "
                "use that strategy, or another state directory"
            )
        try:
            self._learner.load_state_dict(kept["learner"])
            self._strategy.load_state_dict(kept["strategy"])
            return Progress(**{name: int(value) for name, value in kept["progress"].items()})
        except (KeyError, TypeError, ValueError, KnowledgeError, StateError) as exc:
            raise StateError(
                f"{self._folder} does not fit this model and data ({exc}): use the ones it was made with, "
                "or another state directory"
            ) from exc
