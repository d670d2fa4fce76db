"""How the demo looks while it runs and when it is done."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from peerlearn.cli.demo.child_events import Finished, Hello
from peerlearn.cli.demo.progress import DemoProgress
from peerlearn.cli.output import Output, plain, ranges
from peerlearn.events import Event, PeerChanged, PhaseStarted, Published

MARKS = ("private", "remote", "shared")


class DemoView(Protocol):
    """Open while the demo runs."""

    def seen(self, number: int, event: Event) -> None:
        """An event of this child has come. Called on the event loop, after the row has taken it."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None: ...


class TableView:
    """One live table, a row per peer, drawn again four times a second."""

    def __init__(self, console: Console, rows: Sequence[DemoProgress]) -> None:
        self._rows = rows
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=4)

    def seen(self, number: int, event: Event) -> None:
        return None  # the table reads the rows when it is drawn

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._live.stop()

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for title in ("peer", "classes", "round", "", "phase", "accuracy", "learns from", "MB received"):
            table.add_column(title, no_wrap=True, justify="right" if title in ("accuracy", "MB received") else "left")
        for row in self._rows:
            table.add_row(
                plain(row.name),
                ranges(row.classes),
                f"{row.round}/{row.rounds or '?'}",
                ProgressBar(total=row.rounds or 1, completed=row.round, width=16),
                plain(row.phase),
                "" if row.accuracy is None else f"{row.accuracy:.1%}",
                plain(", ".join(row.learns_from)),
                f"{row.received_bytes / 1e6:.1f}",
            )
        return table


class LinesView:
    """A line whenever a peer meets another, ends a round, or begins something else."""

    def __init__(self, output: Output, rows: Sequence[DemoProgress]) -> None:
        self._output = output
        self._rows = rows

    def seen(self, number: int, event: Event) -> None:
        row = self._rows[number]
        match event:
            case Hello():
                self._output.say(f"{row.name}: holds classes {ranges(row.classes)}")
            case PeerChanged() if row.phase != "done":
                self._output.say(f"{row.name}: {row.company(event)}")
            case Published() if event.version > 0:
                self._output.say(row.line())
            case PhaseStarted(phase="isolated twin") | Finished():
                self._output.say(f"{row.name}: {row.phase}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        return None


def accuracy_table(result: Mapping[str, Any]) -> Table:
    """Private, remote and shared accuracy per peer, isolated beside final."""
    title = f"Accuracy in %, alone -> by {result['strategy']}, after {result['rounds']} rounds"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("peer")
    table.add_column("classes", no_wrap=True)
    for mark in MARKS:
        table.add_column(mark, justify="right", no_wrap=True)
    for peer in result["peers"]:
        table.add_row(
            plain(peer["name"]),
            ranges(peer["classes"]),
            *(_change(peer["isolated"][mark], peer["final"][mark]) for mark in MARKS),
        )
    return table


def _change(before: float, after: float) -> str:
    gain = 100 * (after - before)
    colour = "green" if gain > 0.5 else "red" if gain < -0.5 else "dim"
    return f"{100 * before:.1f} -> {100 * after:.1f} [{colour}]{gain:+5.1f}[/{colour}]"
