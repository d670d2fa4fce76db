"""`scripts/bench`: how fast knowledge moves on this machine, beside what this machine could do at most."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from benchmarks import machine, markdown, suite
from benchmarks.measuring import Scale
from benchmarks.results import Result
from peerlearn.cli.boundary import guarded, leave
from peerlearn.cli.options import Json
from peerlearn.cli.output import Output
from peerlearn.errors import StateError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


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


@app.command()
def command(
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME", help="A figure, or a group of them. Repeatable.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repetitions, smaller payloads: two minutes.")] = False,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Take everything so many times, and the medians.")] = 1,
    names: Annotated[bool, typer.Option("--list", help="Name the figures and leave.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Also where the time of one exchange goes.")] = False,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Put the tables into this file too.")
    ] = None,
    as_json: Json = False,
) -> None:
    """How fast knowledge moves here, beside raw TCP, bare gRPC and generated messages of the same run."""
    if names:
        listed(Output(as_json=as_json))
    else:
        bench(Options(tuple(only or ()), quick, runs, profile, markdown), Output(as_json=as_json))


def main(words: Sequence[str]) -> int:
    """Run with these arguments; the exit code."""
    return guarded(
        lambda: app(args=list(words), prog_name="scripts/bench", standalone_mode=False), as_json="--json" in words
    )


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
