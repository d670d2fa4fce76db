"""What `peerlearn up` keeps in a state directory so that `peerlearn resume` can start the same peer again: JSON."""

import contextlib
import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from peerlearn.config import Limits
from peerlearn.errors import PeerlearnError, StateError
from peerlearn.version import __version__

FILE = "run.json"
FORMAT = "peerlearn run 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """The command's own settings; of the group no more than where its file is. Paths are absolute."""

    directory: str
    """Where it was started: MODULE:NAME is looked up there."""
    learner: str
    name: str
    strategy: str
    goal: int | None
    """Rounds in all; None: until stopped."""
    peers: tuple[str, ...]
    listen: str | None
    insecure: bool
    group: str | None
    group_tag: str
    events: str | None
    expose: dict[str, list[str]] | None
    limits: dict[str, int]
    """Those that differ from the defaults."""
    save_every: float
    cast: str
    settings: dict[str, object]
    """Options of the strategy."""


_SHAPES: dict[str, Any] = {
    "directory": str, "learner": str, "name": str, "strategy": str, "goal": int | None, "peers": list,
    "listen": str | None, "insecure": bool, "group": str | None, "group_tag": str, "events": str | None,
    "expose": dict | None, "limits": dict, "save_every": int | float,
    "cast": str, "settings": dict,
}  # fmt: skip


def keep(state: Path, kept: RunSettings) -> None:
    """Whole or not at all; nothing is written when it is there already. Raises StateError."""
    settings = {"format": FORMAT, "software": __version__, **{f.name: getattr(kept, f.name) for f in fields(kept)}}
    write(state / FILE, settings)


def write(path: Path, content: dict[str, Any]) -> None:
    """For this user alone; whole or not at all; nothing is written when it is there already. Raises StateError."""
    data = (json.dumps(content, indent=2) + "\n").encode()
    draft = path.with_name(f".{path.name}.partial")
    try:
        if path.is_file() and path.read_bytes() == data:
            return
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as exc:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise StateError(f"cannot write {path}: {exc.strerror}; free space or choose another state directory") from exc


def fresh(state: Path) -> bool:
    """Whether nobody has been started here before; the directory is there afterwards. Raises StateError."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        return not any(state.iterdir())
    except OSError as exc:
        raise StateError(f"cannot use {state}: {exc.strerror}; choose another state directory") from exc


def load(state: Path) -> RunSettings:
    """Raises StateError: missing, foreign, of another version, damaged or unreadable."""
    path = state / FILE
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise StateError(_nothing(state)) from None
    except OSError as exc:
        raise StateError(f"cannot read {path}: {exc.strerror}; make it readable by this user") from exc
    try:
        settings = json.loads(text)
        if not isinstance(settings, dict):
            raise TypeError("it is not an object")
        if (made := settings.get("format")) != FORMAT:
            raise StateError(
                f"{path} says {str(made)[:40]!r}, this peerlearn reads {FORMAT!r}: resume it with the version that "
                f"wrote it, or run peerlearn up ... --state {state}, which goes on from the checkpoint"
            )
        return _checked(settings)
    except (ValueError, TypeError, KeyError, PeerlearnError) as exc:
        if isinstance(exc, StateError):
            raise
        raise StateError(
            f"{path} is damaged ({exc}): run peerlearn up ... --state {state} with the settings of before, which goes "
            "on from the checkpoint"
        ) from exc


def _checked(settings: dict[str, Any]) -> RunSettings:
    settings = {"settings": {}, **settings}  # those of the first release had none
    for name, shape in _SHAPES.items():
        if name not in settings:
            raise KeyError(f"{name} is missing")
        if not isinstance(settings[name], shape):
            raise TypeError(f"{name} cannot be {settings[name]!r}")
    Limits(**settings["limits"])
    known = {name: settings[name] for name in _SHAPES}
    return RunSettings(**{**known, "peers": tuple(str(peer) for peer in settings["peers"])})


def _nothing(state: Path) -> str:
    if not state.exists():
        return f"there is no {state}: nothing was kept there, or the path is wrong"
    if not state.is_dir():
        return f"{state} is not a directory: name the one given to peerlearn up --state"
    if (state / "identity.key").exists():
        return (
            f"{state} holds a peer, but not how it was started: start that program again, or run peerlearn up ... "
            f"--state {state}, which goes on from the checkpoint"
        )
    return f"{state} is no state directory: name the one given to peerlearn up --state"
