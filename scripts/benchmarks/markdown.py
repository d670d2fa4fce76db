"""Results as tables for people: rows of text, and a page that is put into a document between two marks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks import machine, suite
from benchmarks.results import Result, brief

BENCH, RIVALS = "scripts/bench", "scripts/bench rivals"
"""Who makes what is put into a document."""
COLUMNS = ("figure", "time", "of raw TCP", "of bare gRPC", "extra MB: provider, consumer", "n", "also", "to reach")
Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]


def tables(results: Sequence[Result], parts: Mapping[str, float]) -> Iterator[Table]:
    """(title, columns, rows): one for each group of figures, and one for the profile when there is one."""
    by_name = {result.name: result for result in results}
    for group, title in suite.GROUPS.items():
        mine = [by_name[figure.name] for figure in suite.FIGURES if figure.group == group and figure.name in by_name]
        if mine:
            yield title, COLUMNS, [_row(result) for result in mine]
    if parts:
        rows = [(name, f"{milliseconds:.1f}") for name, milliseconds in parts.items()]
        yield "Where the time of 100 MB goes, each part alone", ("part", "ms"), rows


def page(
    where: Mapping[str, Any], results: Sequence[Result], parts: Mapping[str, float], *, quick: bool, runs: int = 1
) -> str:
    """The tables as Markdown, with the machine and the command that made them."""
    words = ["--quick"] * quick + [f"--runs {runs}"] * (runs > 1) + ["--profile"] * bool(parts)
    made = " ".join([BENCH, *words])
    text = [f"Made by `{made}` on {machine.sentence(dict(where))}.", ""]
    for title, columns, rows in tables(results, parts):
        text += [f"### {title}", "", _line(columns), _line(["---"] * len(columns)), *map(_line, rows), ""]
    return "\n".join(text)


def marks(by: str) -> tuple[str, str]:
    """Between which stands what this command makes."""
    return f"<!-- {by}: begin -->", f"<!-- {by}: end -->"


def placed(document: str, text: str, by: str = BENCH) -> str:
    """The document with the text between its marks; at its end, with marks, when it has none."""
    begin, end = marks(by)
    head, begins, rest = document.partition(begin)
    _, ends, tail = rest.partition(end)
    if not begins or not ends:
        head, tail = document + ("\n" if document else ""), "\n"
    return f"{head}{begin}\n{text}\n{end}{tail}"


def in_short(result: Result) -> str:
    """One line, as soon as it is there."""
    if result.skipped:
        return f"skipped: {result.skipped}"
    ratio = f"{brief(result.ratio_to_tcp)} of raw TCP" if result.ratio_to_tcp is not None else ""
    return "; ".join(filter(None, (_time(result), ratio, *map(str, result.bars))))


def _row(result: Result) -> Sequence[str]:
    if result.skipped:
        return (result.name, "skipped", "", "", "", "", result.skipped, "")
    extra = [result.extra_rss_mb_provider, result.extra_rss_mb_consumer]
    also = [f"{name} {value if isinstance(value, str) else brief(value)}" for name, value in result.figures.items()]
    return (
        result.name, _time(result), _ratio(result.ratio_to_tcp), _ratio(result.ratio_to_aio),
        ", ".join(f"{each:.1f}" for each in extra if each is not None),
        str(result.n), ", ".join(also), "; ".join(map(str, result.bars)),
    )  # fmt: skip


def _time(result: Result) -> str:
    if result.seconds is None:
        return ""
    return f"{1e3 * result.seconds:.3g} ms" if result.seconds < 1 else f"{result.seconds:.3g} s"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
