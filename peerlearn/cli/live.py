"""What `peerlearn up` shows while it runs: one line that is drawn over on a terminal, else a line per happening."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.live import Live

from peerlearn.cli.output import Output, plain
from peerlearn.cli.progress import PeerProgress
from peerlearn.events import (
    Complaint,
    Event,
    FetchFailed,
    Gated,
    PeerChanged,
    Published,
    Quarantined,
    Refused,
    Resumed,
    SaveFailed,
    Sink,
    Started,
    Unfit,
)

ROUND_LINES_EVERY = 1.0
"""Seconds between two lines that say how far a peer is: rounds may end many times a second."""


@contextmanager
def live_row(output: Output, row: PeerProgress) -> Iterator[Sink]:
    """A sink that keeps `row` up to date and shows it until the block is left."""
    teller = _Teller(output, row)
    if not output.live:
        yield teller
        return
    with Live(console=output.console, get_renderable=lambda: plain(row.line()), refresh_per_second=4, transient=True):
        yield teller


def sentence(event: Event) -> str | None:  # noqa: C901 (a table, not a tangle)
    """What an event says to the owner of the peer; None: nothing of note."""
    match event:
        case Started():
            return f"{event.name} ({event.id[:12]}) listens on {event.address}, learns by {event.strategy}"
        case PeerChanged():
            return PeerProgress.company(event)
        case FetchFailed():
            return f"no answer from {event.provider}: {event.why}"
        case Unfit():
            return f"cannot learn from {event.provider}: {event.why}"
        case Gated(kept=False):
            return f"transfer rolled back: {event.why}"
        case SaveFailed():
            return f"nothing saved: {event.why}; learning goes on"
        case Resumed():
            return f"goes on from round {event.round}" + (f": {event.why}" if event.why else "")
        case Quarantined():
            return f"put aside {event.provider} until its version {event.until}: {event.why}"
        case Complaint():
            return f"{event.by} does not use what this peer teaches: {event.why}"
        case Refused():
            return f"refused {event.consumer[:12]}: {event.detail}"
    return None


class _Teller:
    """Called from the event loop and from the learner's thread; the console takes care of both."""

    def __init__(self, output: Output, row: PeerProgress) -> None:
        self._output = output
        self._row = row
        self._last_round = -ROUND_LINES_EVERY

    def __call__(self, event: Event) -> None:
        self._row.seen(event)
        if (line := sentence(event)) is not None:
            self._output.say(line)
        elif isinstance(event, Published) and event.version > 0 and self._is_time():
            self._output.say(self._row.line())

    def _is_time(self) -> bool:
        if self._output.live or time.monotonic() - self._last_round < ROUND_LINES_EVERY:
            return False
        self._last_round = time.monotonic()
        return True
