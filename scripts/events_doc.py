"""Makes docs/events.md from the event classes and their docstrings; with --check proves that it matches."""

import ast
import inspect
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from peerlearn import events
from peerlearn.events import ENVELOPE, KINDS, Event, kinds

PAGE = Path(__file__).parents[1] / "docs" / "events.md"
TYPES = {
    "str": "text",
    "int": "whole number",
    "float": "number or null",
    "bool": "true or false",
    "tuple[str, ...]": "list of texts",
    "Mapping[str, float]": "object of numbers",
}
"""What an annotation becomes in JSON. A type that is missing here is an error: add it."""

HEAD = """# Events

What a peer states while it runs: one JSON object per line, in the file of `peerlearn up --events FILE`, in the
`events-NAME.jsonl` of the demo and of experiments, and by `peerlearn.JsonlSink`. Events are read by people and tools;
no peer acts on them. Made by `scripts/events-doc` from `peerlearn/events/kinds.py`.

In Python, `peerlearn.events.read_events(path)` gives each line as an object of its class with its envelope:

```python
from pathlib import Path
from peerlearn.events import Fetched, read_events

received = sum(r.event.received_bytes for r in read_events(Path("amber.jsonl")) if isinstance(r.event, Fetched))
```

New events, and new fields with a default, may come at any time: a reader passes over what it does not know, as
`read_events` does. `schema` rises when anything else changes. NaN and infinities are written as null. `round` is the
number of rounds completed before, unless it says otherwise.

## In every event"""


def main(check: bool) -> int:
    """Write the page, or compare it; the exit code."""
    page = text()
    if not check:
        PAGE.write_text(page, encoding="utf-8")
        return 0
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page:
        sys.stderr.write("docs/events.md is stale: run scripts/events-doc\n")
        return 1
    return 0


def text() -> str:
    """The whole page."""
    envelope = [f"| `{key}` | {meaning} |" for key, meaning in ENVELOPE.items()]
    contents = [f"[`{kind.kind}`](#{kind.kind})" for kind in KINDS]
    parts = [HEAD, "\n".join(["| key | meaning |", "|---|---|", *envelope]), "## The events", ", ".join(contents)]
    docs = _attribute_docs(Path(inspect.getfile(kinds)))
    for kind in KINDS:
        parts += _section(kind, docs[kind.__name__])
    return "\n\n".join(parts) + "\n"


def _section(kind: type[Event], docs: dict[str, str]) -> Iterator[str]:
    assert getattr(events, kind.__name__) is kind
    yield f"### {kind.kind}"
    yield f"{' '.join(inspect.cleandoc(kind.__doc__ or '').split())} Class `{kind.__name__}`."
    rows = [f"| `{each.name}` | {TYPES[_annotation(each.type)]} | {docs[each.name]} |" for each in fields(kind)]
    yield "\n".join(["| field | type | meaning |", "|---|---|---|", *rows])


def _annotation(of: Any) -> str:
    """As it is written in the source."""
    return of.__name__ if type(of) is type else str(of).removeprefix("collections.abc.")


def _attribute_docs(path: Path) -> dict[str, dict[str, str]]:
    """Class to field to the docstring that follows it."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = dict(_docs_of(node))
    return found


def _docs_of(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for before, after in zip(node.body, node.body[1:], strict=False):
        match before, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(said))),
            ):
                yield name, " ".join(said.split())


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
