"""Text from outside: without what a terminal acts upon, and no longer than it may be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerlearn.text import REPLACEMENT, is_name, listed, one_line, visible

HOSTILE = "red \x1b[31m\r\nnext\u202eline\x07"


@given(st.text(max_size=60), st.integers(0, 40))
def test_one_line_is_one_printable_line_of_at_most_so_many_characters(text: str, most: int) -> None:
    line = one_line(text, most)
    assert len(line) <= most
    assert line.isprintable()
    assert line == line.strip()
    if text.isprintable() and len(text) <= most:
        assert line == text.strip()


def test_one_line_keeps_what_can_be_read() -> None:
    assert one_line(HOSTILE, 100) == "red  [31m  next line"
    assert one_line("Grüße, 世界", 100) == "Grüße, 世界"


@given(st.text(max_size=60))
def test_visible_has_one_printable_character_for_each(text: str) -> None:
    shown = visible(text)
    assert len(shown) == len(text)
    assert shown.isprintable()
    assert all(new in (old, REPLACEMENT) for old, new in zip(text, shown, strict=True))


def test_visible_shows_where_something_was() -> None:
    assert visible("a\x1bb") == f"a{REPLACEMENT}b"


@pytest.mark.parametrize(
    ("text", "fits"),
    [("amber", True), ("a" * 10, True), ("a" * 11, False), ("", False), ("a\nb", False), ("\x1b", False), (7, False)],
)
def test_a_name_is_short_printable_text(text: object, fits: bool) -> None:
    assert is_name(text, 10) is fits


def test_names_are_listed_in_order() -> None:
    assert listed({"birch", "amber"}) == "amber, birch"
    assert listed([]) == "nothing"
    assert listed([], empty="nobody") == "nobody"
