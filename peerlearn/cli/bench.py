"""`peerlearn bench`: how fast knowledge moves on this machine, beside what this machine could do at most."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from peerlearn.bench import machine, markdown, suite
from peerlearn.bench.measuring import Scale
from peerlearn.bench.results import Result
from peerlearn.cli.output import Output
from peerlearn.errors import StateError


@dataclass(frozen=True, slots=True)
class Options:
    only: tuple[str, ...] = ()
    quick: bool = False
    runs: int = 1
    profile: bool = False
    markdown: Path | None = None


def listed(output: Output) -> None:
    output.result({"figures": [{"name": f.name, "group": f.group, "about": f.about} for f in suite.FIGURES]})
    if output.as_json:
        return
    table = Table(box=None, header_style="bold")
    for column in ("name", "group", "about"):
        table.add_column(column)
    for figure in suite.FIGURES:
        table.add_row(figure.name, figure.group, figure.about)
    output.console.print(table)


def bench(options: Options, output: Output) -> None:
    """Raises ConfigError for a name that there is not, StateError when the file cannot be written, and SideFailed."""
    figures = suite.chosen(options.only)
    scale = Scale(quick=options.quick)
    where = machine.describe()
    output.say(machine.sentence(where))
    if options.quick:
        output.say("quick: few repetitions, and smaller payloads where it is said; for figures to quote, leave it out")
    if options.runs > 1:
        output.say(f"all of it {options.runs} times: the medians of the runs, and how far apart they lie")
    results = asyncio.run(
        suite.run(
            figures, scale, runs=options.runs,
            begun=lambda figure: output.say(f"{figure.name}: {figure.about} ..."),
            done=lambda result: output.say(f"  {markdown.in_short(result)}"),
        )
    )  # fmt: skip
    parts = asyncio.run(suite.profile(scale)) if options.profile else {}
    if not output.as_json:
        _show(results, parts, output)
    if options.markdown is not None:
        _write(options.markdown, markdown.page(where, results, parts, quick=options.quick, runs=options.runs))
        output.say(f"tables written to {options.markdown}")
    output.result({
        "machine": where, "quick": options.quick, "runs": options.runs,
        "results": [result.as_json() for result in results],
        **({"profile_ms": parts} if parts else {}),
    })  # fmt: skip


def _show(results: Sequence[Result], parts: dict[str, float], output: Output) -> None:
    for title, columns, rows in markdown.tables(results, parts):
        table = Table(title=title, title_justify="left", header_style="bold")
        for number, column in enumerate(columns):
            table.add_column(column, overflow="fold", no_wrap=number == 0)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        output.console.print(table)


def _write(path: Path, text: str) -> None:
    try:
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        path.write_text(markdown.placed(old, text), encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise StateError(f"cannot write the tables to {path}: {exc}") from exc
