"""Who uses what whom teaches, as a peer sees it, for its owner's shell: kept beside its state by `up`, shown by `show`.

It is a file for its owner, and not a word on the wire: no stranger is to read who accuses whom.
"""

import asyncio
import contextlib
import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from peerlearn.cli import run_settings
from peerlearn.cli.output import Output, plain
from peerlearn.errors import StateError

if TYPE_CHECKING:
    from peerlearn.peer import Peer

FILE = "standing.json"
FORMAT = "peerlearn standing 1"
_EVERY = 1.0
"""Seconds between two looks; it is written only when it has changed, which is seldom."""
_MOST_BYTES = 4 << 20


async def keep(peer: "Peer", state: Path) -> None:
    """Until cancelled. A disk that takes nothing is told of where checkpoints are saved, not here too."""
    told = None
    while True:
        status = peer.status()
        now = {
            "name": status.name,
            "id": status.id,
            "strategy": status.strategy,
            "quarantined": [asdict(each) for each in status.quarantined],
            "complaints": [asdict(complaint) for complaint in status.complaints],
        }
        if now != told:
            since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            with contextlib.suppress(StateError):
                run_settings.write(state / FILE, {"format": FORMAT, **now, "since": since})
                told = now
        await asyncio.sleep(_EVERY)


def show(state: Path, output: Output) -> None:
    """Raises StateError when nothing is kept there, or it cannot be read."""
    run_settings.load(state)
    found = _load(state / FILE)
    output.result(found)
    if output.as_json:
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("name", plain(found["name"]))
    table.add_row("id", plain(found["id"]))
    table.add_row("strategy", plain(found["strategy"]))
    aside = [f"{each['name']} ({each['id'][:8]}) {each['why']}" for each in found["quarantined"]]
    said = [f"{each['by']}: {each['why']}" for each in found["complaints"]]
    for title, lines in (("does not learn from", aside), ("who does not use it", said)):
        for at, line in enumerate(lines or ["nobody"]):
            table.add_row("" if at else title, plain(line))
    table.add_row("so since", plain(found["since"]))
    output.console.print(table)


def _load(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MOST_BYTES))
        if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
            raise ValueError("of another version, or none of ours")
        texts = [found["name"], found["id"], found["strategy"], found["since"]]
        texts += [each[key] for each in found["quarantined"] for key in ("id", "name", "why")]
        texts += [each[key] for each in found["complaints"] for key in ("by", "why")]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("it holds what is no text")
    except FileNotFoundError:
        raise StateError(f"there is no {path}: it is written while peerlearn up, or resume, runs") from None
    except OSError as exc:
        raise StateError(f"cannot read {path}: {exc.strerror}; make it readable by this user") from exc
    except (ValueError, TypeError, KeyError) as exc:
        raise StateError(f"{path} is damaged ({exc}): it is written anew when peerlearn resume runs") from exc
    return found
