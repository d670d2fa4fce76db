"""Text for people: what comes from outside without what a terminal acts upon, and lists of names."""

from collections.abc import Iterable

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def one_line(text: str, most: int) -> str:
    """At most `most` characters, without line breaks and without anything that a terminal acts upon."""
    return "".join(char if char.isprintable() else " " for char in text[:most]).strip()


def visible(text: str) -> str:
    """The same text with each character that cannot be printed shown as one that says so."""
    return "".join(char if char.isprintable() else REPLACEMENT for char in text)


def is_name(text: object, most: int) -> bool:
    """Whether this is a name that spoils no table: 1 to `most` printable characters."""
    return isinstance(text, str) and 0 < len(text) <= most and text.isprintable()


def listed(names: Iterable[str], *, empty: str = "nothing") -> str:
    """Sorted, with commas; `empty` when there are none."""
    return ", ".join(sorted(names)) or empty
