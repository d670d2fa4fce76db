"""The word that was probably meant, for messages about a name that is not known."""

from collections.abc import Iterable
from difflib import get_close_matches

CLOSE = 0.55
"""Similarity (difflib's ratio, 0 to 1) from which on a word is suggested: one or two letters of a short name differ."""


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The known word nearest to this one, whatever its case; None when none is near."""
    lower = {known.lower(): known for known in words}
    found = get_close_matches(word.lower(), lower, n=1, cutoff=CLOSE)
    return lower[found[0]] if found else None


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """`; did you mean 'this'?`, to follow a clause, or an empty string when no word is near."""
    found = nearest(word, words)
    return f"; did you mean {found!r}?" if found is not None else ""
