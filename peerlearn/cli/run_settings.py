"""How a peer is started: the options of `peerlearn up` as one value, kept as JSON in the peer's state directory.

`peerlearn resume` reads the value back and starts the same peer again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from peerlearn import atomicfile, schema
from peerlearn.casts import check_cast
from peerlearn.config import Limits
from peerlearn.errors import ConfigError, StateError
from peerlearn.types import Address
from peerlearn.version import __version__

FILE = "run.json"
FORMAT = "peerlearn run 1"
SAVE_EVERY = 30.0
"""Seconds of a long span that a crash may cost, unless `--save-every` says otherwise."""
_MOST_BYTES = 4 << 20
"""Of a file in a state directory; an allow-list of a thousand peers takes a tenth of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """One field per option of `peerlearn up`. Raises ConfigError for what cannot work, before anything is opened."""

    learner: str
    """MODULE:NAME of the user's learner, or of a function that makes it."""
    directory: Path = field(default_factory=Path.cwd)
    """Where `up` was called: MODULE:NAME is looked up there."""
    name: str = ""
    """What other peers call this one; empty: one is made up."""
    strategy: str = "distillation"
    """Name of the strategy."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the strategy."""
    peers: tuple[str, ...] = ()
    """Addresses of other peers, HOST:PORT, beside those that mDNS finds."""
    listen: str | None = None
    """HOST:PORT. None: a free port on loopback, or on all interfaces with `group` or `insecure`."""
    insecure: bool = False
    """Listen beyond loopback without encryption."""
    group: Path | None = None
    """The group file. Its content is never copied."""
    group_tag: str = ""
    """Only peers with the same tag take notice of each other."""
    expose: Mapping[str, tuple[str, ...]] | None = None
    """What may be shown, by peer ("*": to all). None: what the strategy needs."""
    limits: Limits = field(default_factory=Limits)
    """Bounds on what other peers may send and hold."""
    cast: str = ""
    """What may be lost on the way to this peer."""
    rounds: int | None = None
    """Rounds to do after round `since`. None: until stopped."""
    since: int | None = None
    """Rounds that were completed when `rounds` was said. None: those completed when the peer opens."""
    state: Path | None = None
    """The directory that keeps identity, checkpoints and these settings. It may be moved, and so is not in the file."""
    save_every: float = SAVE_EVERY
    """Seconds of a long span that a crash may cost."""
    events: Path | None = None
    """The JSONL file to append events to."""

    def __post_init__(self) -> None:
        if self.group is not None and self.insecure:
            raise ConfigError("a group and --insecure exclude one another: leave one of them out")
        for address in (*self.peers, *([] if self.listen is None else [self.listen])):
            Address.parse(address)
        if self.rounds is not None:
            schema.at_least(1, **{"--rounds": self.rounds})
        if not self.save_every > 0:
            raise ConfigError(f"--save-every must be more than 0, not {self.save_every:g}")
        check_cast(self.cast)

    @property
    def goal(self) -> int | None:
        """Rounds in all, once `since` is known. None: no end is set, or it is not known yet."""
        return None if self.rounds is None or self.since is None else self.since + self.rounds


_KEPT = tuple(each.name for each in fields(RunSettings) if each.name != "state")


def keep(settings: RunSettings) -> None:
    """Write the settings into their state directory, whole or not at all. Raises StateError."""
    assert settings.state is not None
    plain = {name: _plain(getattr(settings, name)) for name in _KEPT}
    write(settings.state / FILE, {"format": FORMAT, "software": __version__, **plain})


def load(state: Path) -> RunSettings:
    """The settings kept in this directory. Raises StateError: missing, foreign, of another version, damaged."""
    path = state / FILE
    try:
        table = read(path)
    except (FileNotFoundError, NotADirectoryError):
        raise StateError(_nothing(state)) from None
    except ConfigError as exc:
        raise StateError(_damaged(path, exc)) from exc
    if (made := table.pop("format", None)) != FORMAT:
        raise StateError(
            f"{path} says {str(made)[:40]!r}, this peerlearn reads {FORMAT!r}: resume it with the version that "
            f"wrote it, or run peerlearn up ... --state {state}, which goes on from the checkpoint"
        )
    try:
        table.pop("software", None)
        for name in _KEPT:  # a default must not stand for what was lost: it might be the group
            if name not in table:
                raise ConfigError(f"{name!r} is missing")
        return schema.read(RunSettings, {**table, "state": str(state)}, "")
    except ConfigError as exc:
        raise StateError(_damaged(path, exc)) from exc


def fresh(state: Path) -> bool:
    """Whether no peer has been started here before; the directory is there afterwards. Raises StateError."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        return not any(state.iterdir())
    except OSError as exc:
        raise StateError(f"cannot use {state}: {exc.strerror}; choose another state directory") from exc


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON for this user alone, whole or not at all; nothing when it is there already. Raises StateError."""
    data = (json.dumps(content, indent=2) + "\n").encode()
    try:
        if not (path.is_file() and path.read_bytes() == data):
            atomicfile.write(path, data)
    except OSError as exc:
        raise StateError(f"cannot write {path}: {exc.strerror}; free space or choose another state directory") from exc


def read(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a state directory. Raises FileNotFoundError or NotADirectoryError when it is not
    there, ConfigError when it holds no object, StateError when it cannot be read."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MOST_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as exc:
        raise StateError(f"cannot read {path}: {exc.strerror}; make it readable by this user") from exc
    except (ValueError, RecursionError) as exc:
        raise ConfigError(str(exc)) from exc
    if not isinstance(found, dict):
        raise ConfigError("it is not an object")
    return found


def _plain(value: Any) -> Any:
    """For JSON. Paths are absolute; of limits those that differ from the defaults, which may change."""
    if isinstance(value, Path):
        return str(value.absolute())
    if isinstance(value, Limits):
        here, usual = ({each.name: getattr(of, each.name) for each in fields(Limits)} for of in (value, Limits()))
        return {name: limit for name, limit in here.items() if limit != usual[name]}
    return value


def _damaged(path: Path, why: ConfigError) -> str:
    return (
        f"{path} is damaged ({why}): run peerlearn up ... --state {path.parent} with the settings of before, which "
        "goes on from the checkpoint"
    )


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
