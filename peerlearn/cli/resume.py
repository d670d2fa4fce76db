"""`peerlearn resume`: start the peer of a state directory again, as it was started, and go on where it stood."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peerlearn.cli import run_settings
from peerlearn.cli.output import Output
from peerlearn.cli.up import up
from peerlearn.errors import StateError


def resume(
    state: Path,
    output: Output,
    *,
    rounds: int | None = None,
    listen: str | None = None,
    peers: Sequence[str] | None = None,
    group: Path | None = None,
    events: Path | None = None,
) -> None:
    """Start the peer of this directory again. What is given replaces, this time, what it was started with.

    rounds: so many more. None: as many as were to be done.
    Raises StateError when there is nothing to start again, and what stops a peer from starting, a PeerlearnError.
    """
    settings = run_settings.load(state.absolute())
    changed: dict[str, Any] = {}
    if rounds is not None:
        changed |= {"rounds": rounds, "since": None}
    if listen:
        changed["listen"] = listen
    if peers:
        changed["peers"] = tuple(peers)
    changed |= {name: path.absolute() for name, path in (("group", group), ("events", events)) if path is not None}
    settings = replace(settings, **changed)
    _go_to(settings.directory)
    up(settings, output, keep=False)


def _go_to(directory: Path) -> None:
    """The user's module, and what it reads, are looked up where the run was started."""
    try:
        os.chdir(directory)
    except OSError as exc:
        raise StateError(
            f"this run was started in {directory}, which cannot be entered ({exc.strerror}): put it back, or run "
            "peerlearn up again with the same --state, where your app is now"
        ) from exc
