"""A page of results: a section per experiment. New ones take the place of old ones, the others stay as they are."""

import re
from collections.abc import Mapping

from peerlearn.experiments.report.tables import HOLDS, table

_SECTION = re.compile(r"^## ([\w-]+)(?=:|$)", re.MULTILINE)
_HEAD = """# Results

Made by `peerlearn report DIR... --out docs`: a section per experiment, each from the runs of
`peerlearn experiment run NAME --seeds 3`. Variants in *italics* are controls."""


def page(sections: Mapping[str, str], before: str = "") -> str:
    """The sections of these experiments, and those of all others from the page that was there `before`, by name; ahead
    of them which claims hold, and which do not."""
    every = dict(sorted({**_sections(before), **sections}.items()))
    failed = [
        [_link(name, text), *row[:2], *row[3:5]] for name, text in every.items() for row in _claims(text, HOLDS[False])
    ]
    parts = [_HEAD, _overview(every)]
    if failed:
        parts.append("What does not hold, and what can be shown of the reason:")
        parts.append(table(["experiment", "claim", "", "bar", "value"], failed))
    return "\n\n".join([*parts, *(text.strip() for text in every.values())]) + "\n"


def _sections(text: str) -> dict[str, str]:
    """By name of experiment."""
    found = list(_SECTION.finditer(text))
    ends = [*(match.start() for match in found), len(text)][1:]
    return {match[1]: text[match.start() : end] for match, end in zip(found, ends, strict=True)}


def _overview(every: Mapping[str, str]) -> str:
    counts = {name: [len(_claims(text, HOLDS[held])) for held in (True, False)] for name, text in every.items()}
    body = [[_link(name, text), *map(str, counts[name])] for name, text in every.items()]
    total = [str(sum(column)) for column in zip(*counts.values(), strict=True)] or ["0", "0"]
    return table(["experiment", "claims and bars that hold", "that do not"], [*body, ["all", *total]])


def _claims(text: str, word: str) -> list[list[str]]:
    """The cells of those claims of a section that were judged so."""
    rows = (line for line in text.splitlines() if line.endswith(f"| {word} |"))
    cells = (re.split(r"(?<!\\)\|", row)[1:-1] for row in rows)
    return [[cell.strip().replace("\\|", "|") for cell in row] for row in cells]


def _link(name: str, text: str) -> str:
    """To the section, whose address is made of its heading by the rule that sites for Markdown share."""
    heading = text.partition("\n")[0].removeprefix("## ").lower()
    address = re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")
    return f"[{name}](#{address})"
