"""How a peer stands with others, for its owner's shell: kept beside its state by `up`, shown by `show --state`.

It is a file for the owner and not a message: no other peer is to read who accuses whom.
"""

import asyncio
import contextlib
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from peerlearn import schema
from peerlearn.cli import run_settings
from peerlearn.cli.output import Output, plain
from peerlearn.errors import ConfigError, StateError
from peerlearn.events import Complaint
from peerlearn.status import QuarantinedPeer

if TYPE_CHECKING:
    from peerlearn.peer import Peer

FILE = "owner-status.json"
FORMAT = "peerlearn owner status 1"
_EVERY = 1.0
"""Seconds between two looks; the file is written only when something has changed, which is seldom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerStatus:
    """What the file holds."""

    name: str
    """Name of the peer."""
    id: str
    """Id of the peer."""
    strategy: str
    """Name of its strategy."""
    quarantined: tuple[QuarantinedPeer, ...]
    """The providers that the peer does not learn from."""
    complaints: tuple[Complaint, ...]
    """What other peers say against the peer's knowledge."""
    since: str = ""
    """When this began to be so: UTC."""


async def keep(peer: "Peer", state: Path) -> None:
    """Keep the file up to date until cancelled. A disk that takes nothing is reported where checkpoints are saved."""
    told = None
    while True:
        if (now := _of(peer)) != told:
            since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            with contextlib.suppress(StateError):
                run_settings.write(state / FILE, {"format": FORMAT, **asdict(replace(now, since=since))})
                told = now
        await asyncio.sleep(_EVERY)


def _of(peer: "Peer") -> OwnerStatus:
    status = peer.status()
    return OwnerStatus(
        name=status.name, id=status.id, strategy=status.strategy, quarantined=status.quarantined,
        complaints=status.complaints,
    )  # fmt: skip


def show(state: Path, output: Output) -> None:
    """Print the file. Raises StateError when nothing is kept there, or it cannot be read."""
    run_settings.load(state)
    found = load(state)
    output.result(asdict(found))
    if output.as_json:
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for title, text in (("name", found.name), ("id", found.id), ("strategy", found.strategy)):
        table.add_row(title, plain(text))
    aside = [f"{each.name} ({each.id[:8]}) {each.why}" for each in found.quarantined]
    said = [f"{each.by}: {each.why}" for each in found.complaints]
    for title, lines in (("does not learn from", aside), ("who does not use it", said)):
        for at, line in enumerate(lines or ["nobody"]):
            table.add_row("" if at else title, plain(line))
    table.add_row("so since", plain(found.since))
    output.console.print(table)


def load(state: Path) -> OwnerStatus:
    """The file of this state directory. Raises StateError when it is missing, damaged or unreadable."""
    path = state / FILE
    try:
        table = run_settings.read(path)
        if table.pop("format", None) != FORMAT:
            raise ConfigError("of another version, or none of ours")
        return schema.read(OwnerStatus, table, "")
    except FileNotFoundError:
        raise StateError(f"there is no {path}: it is written while peerlearn up, or resume, runs") from None
    except ConfigError as exc:
        raise StateError(f"{path} is damaged ({exc}): it is written anew when peerlearn resume runs") from exc
