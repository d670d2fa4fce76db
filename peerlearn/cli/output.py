"""Where a command's words go: people read the console, programs read one JSON object on the last line of stdout."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from peerlearn.text import visible

PIPE_COLUMNS = 160
"""Width of a table in a pipe, in characters: a row is one line, so that grep and awk can read it."""


def plain(text: str) -> Text:
    """Text from elsewhere, for a terminal: no control characters, no markup. Peers choose their own names."""
    return Text(visible(text))


def ranges(numbers: Sequence[int]) -> str:
    """Whole numbers in short: `0-2, 6-9` for 0, 1, 2, 6, 7, 8, 9."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


class Output:
    """One per command. With `as_json`, everything for people goes to stderr, so that stdout is the object alone."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(stderr=as_json, highlight=False)
        if not self.console.is_terminal and "COLUMNS" not in os.environ:
            self.console.width = PIPE_COLUMNS
        self._errors = Console(stderr=True, highlight=False)

    @property
    def live(self) -> bool:
        """Whether what is shown can be drawn over. Else: one line after another."""
        return self.console.is_terminal

    def say(self, text: str) -> None:
        self.console.print(plain(text), soft_wrap=True)

    def warn(self, text: str) -> None:
        self._errors.print(plain(text), style="bold yellow", soft_wrap=True)

    def result(self, value: Mapping[str, Any] | Sequence[Any]) -> None:
        """The object that programs read; nothing without `--json`."""
        if self.as_json:
            write_json(value)


def write_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    sys.stdout.write(json.dumps(finite(value), allow_nan=False) + "\n")
    sys.stdout.flush()


def finite(value: Any) -> Any:
    """The same with null for NaN and infinities, which JSON does not know."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [finite(item) for item in value]
    return value
