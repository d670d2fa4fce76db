"""Results as tables for people: rows of text, and a page that is put into a document between two marks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from peerlearn.bench import machine, suite
from peerlearn.bench.results import Result, brief

BEGIN, END = "<!-- peerlearn bench: begin -->", "<!-- peerlearn bench: end -->"
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


def page(where: Mapping[str, Any], results: Sequence[Result], parts: Mapping[str, float], *, quick: bool) -> str:
    """The tables as Markdown, with the machine and the command that made them."""
    made = "peerlearn bench" + (" --quick" if quick else "") + (" --profile" if parts else "")
    text = [f"Made by `{made}` on {machine.sentence(dict(where))}.", ""]
    for title, columns, rows in tables(results, parts):
        text += [f"### {title}", "", _line(columns), _line(["---"] * len(columns)), *map(_line, rows), ""]
    return "\n".join(text)


def placed(document: str, text: str) -> str:
    """The document with the text between its marks; at its end, with marks, when it has none."""
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        head, tail = document + ("\n" if document else ""), "\n"
    return f"{head}{BEGIN}\n{text}\n{END}{tail}"


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
