"""Suggestions: the nearest known word, whatever its case, or none."""

import pytest

from peerlearn.suggest import did_you_mean, nearest

KNOWN = ["amber", "birch", "Cedar", "distillation"]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("ambr", "amber"),
        ("AMBER", "amber"),
        ("cedar", "Cedar"),
        ("cedra", "Cedar"),
        ("distilation", "distillation"),
        ("birhc", "birch"),
        ("xyzzy", None),
        ("", None),
        ("a", None),
    ],
)
def test_the_nearest_word_is_found_and_given_as_it_is_spelled(word: str, meant: str | None) -> None:
    assert nearest(word, KNOWN) == meant
    assert did_you_mean(word, KNOWN) == (f"; did you mean {meant!r}?" if meant else "")


def test_of_several_near_words_the_nearest_is_meant() -> None:
    assert nearest("amber1", ["amber2", "amber", "amb"]) == "amber"


def test_of_no_words_none_is_near() -> None:
    assert nearest("amber", []) is None
    assert did_you_mean("amber", iter(())) == ""
