"""`peerlearn resume`: start the peer of a state directory again, as it was started, and go on where it stood."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peerlearn.cli import run_settings
from peerlearn.cli.output import Output
from peerlearn.cli.up import UpOptions, up
from peerlearn.config import Limits
from peerlearn.errors import StateError


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is to be otherwise, this time. None: as it was."""

    rounds: int | None
    """So many more."""
    listen: str | None
    peers: Sequence[str] | None
    group: Path | None
    events: Path | None


def resume(state: Path, changes: Changes, output: Output) -> None:
    """Raises StateError when there is nothing to start again, and whatever stops a peer from starting."""
    state = state.absolute()
    was = run_settings.load(state)
    group = changes.group.absolute() if changes.group is not None else was.group and Path(was.group)
    events = changes.events.absolute() if changes.events is not None else was.events and Path(was.events)
    _go_to(Path(was.directory))
    up(
        UpOptions(
            learner=was.learner, name=was.name, strategy=was.strategy, settings=was.settings,
            peers=tuple(changes.peers or was.peers),
            listen=changes.listen or was.listen, insecure=was.insecure, group=group or None, group_tag=was.group_tag,
            rounds=changes.rounds, goal=was.goal if changes.rounds is None else None, state=state,
            events=events or None, expose=was.expose, limits=Limits(**was.limits), save_every=was.save_every,
            cast=was.cast, resumed=True,
        ),
        output,
    )  # fmt: skip


def _go_to(directory: Path) -> None:
    """The user's module, and what it reads, are looked up where the run was started."""
    try:
        os.chdir(directory)
    except OSError as exc:
        raise StateError(
            f"this run was started in {directory}, which cannot be entered ({exc.strerror}): put it back, or run "
            "peerlearn up again with the same --state, where your app is now"
        ) from exc
