"""What `peerlearn up` shows while it runs: one line that is drawn over on a terminal, else a line per happening."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.live import Live

from peerlearn.cli.output import Output, plain
from peerlearn.cli.progress import PeerProgress
from peerlearn.events import Event, Sink, as_json

ROUND_LINES_EVERY = 1.0
"""Seconds."""


@contextmanager
def follower(output: Output, row: PeerProgress) -> Iterator[Sink]:
    """A sink that keeps `row` and shows it until the block is left."""
    teller = _Teller(output, row)
    if not output.live:
        yield teller
        return
    with Live(console=output.console, get_renderable=lambda: plain(row.line()), refresh_per_second=4, transient=True):
        yield teller


class _Teller:
    """Called from the event loop and from the learner's thread; the console takes care of both."""

    def __init__(self, output: Output, row: PeerProgress) -> None:
        self._output = output
        self._row = row
        self._last_round = -ROUND_LINES_EVERY

    def __call__(self, event: Event) -> None:
        seen = json.loads(as_json(event, seconds=0.0))
        self._row.seen(seen)
        if (line := self._line(seen)) is not None:
            self._output.say(line)

    def _line(self, event: Mapping[str, Any]) -> str | None:  # noqa: C901 (a table, not a tangle)
        match event:
            case {"kind": "started"}:
                return (
                    f"{event['name']} ({event['id'][:12]}) listens on {event['address']}, learns by {event['strategy']}"
                )
            case {"kind": "peer"}:
                return PeerProgress.company(event)
            case {"kind": "fetch-failed"}:
                return f"no answer from {event['provider']}: {event['why']}"
            case {"kind": "unfit"}:
                return f"cannot learn from {event['provider']}: {event['why']}"
            case {"kind": "gated", "kept": False}:
                return f"transfer rolled back: {event['why']}"
            case {"kind": "save-failed", "why": why}:
                return f"nothing saved: {why}; learning goes on"
            case {"kind": "resumed"}:
                return f"goes on from round {event['round']}" + (f": {event['why']}" if event["why"] else "")
            case {"kind": "quarantined"}:
                return f"put aside {event['provider']} until its version {event['until']}: {event['why']}"
            case {"kind": "complaint"}:
                return f"{event['by']} does not use what this peer teaches: {event['why']}"
            case {"kind": "refused"}:
                return f"refused {event['consumer'][:12]}: {event['detail']}"
            case {"kind": "published", "version": version} if version > 0 and self._is_time():
                return self._row.line()
        return None

    def _is_time(self) -> bool:
        """Rounds may end many times a second; people and logs want to hear of them once."""
        if self._output.live or time.monotonic() - self._last_round < ROUND_LINES_EVERY:
            return False
        self._last_round = time.monotonic()
        return True
