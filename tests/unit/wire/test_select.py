"""A query's select is taken and refused exactly as a plain reader would, however quickly that is found out."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from peerlearn.config import Limits
from peerlearn.errors import Corrupt, KnowledgeError, Oversized
from peerlearn.wire.select import dump_select, load_select

LIMITS = Limits(select_depth=3, select_bytes=200)
REFUSED = "refused"

# ---------------------------------------------------------------- the plain reader and writer


def depth_of(value: Any) -> int:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


def half_a_character(value: Any) -> bool:
    """Whether a string in it is not text."""
    if isinstance(value, dict):
        return any(map(half_a_character, [*value, *value.values()]))
    if isinstance(value, list):
        return any(map(half_a_character, value))
    return isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value)


def no_constant(name: str) -> None:
    raise ValueError(name)


def plainly_read(data: bytes) -> Any:
    """The object, or REFUSED."""
    if len(data) > LIMITS.select_bytes:
        return REFUSED
    try:
        value = json.loads(data.decode("utf-8", "strict"), parse_constant=no_constant)
    except (ValueError, RecursionError):
        return REFUSED
    good = isinstance(value, dict) and depth_of(value) <= LIMITS.select_depth and not half_a_character(value)
    return value if good else REFUSED


def read(data: bytes) -> Any:
    try:
        return load_select(data, LIMITS)
    except (Corrupt, Oversized):
        return REFUSED


def same(one: Any, two: Any) -> bool:
    """Types too, and NaN: 1, 1.0 and True are three values."""
    return repr(one) == repr(two)


# ---------------------------------------------------------------- what comes

TEXT = st.text(st.sampled_from('a"\\[]{}:, \n\ud800\udc00ü\U0001f600\ufeff\x00'), max_size=6)
NUMBERS = st.sampled_from([0, -1, 2**70, 0.5, 1e300, float("inf"), float("nan")])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def written(value: Any, plain: bool, encoding: str, space: str) -> bytes:
    return (space + json.dumps(value, ensure_ascii=plain)).encode(encoding, "surrogatepass")


ENCODINGS = st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32"])
WRITTEN = st.builds(written, VALUES, st.booleans(), ENCODINGS, st.sampled_from(["", "", " ", "\n"]))
PIECES = st.lists(
    st.sampled_from([
        b"[", b"]", b"{", b"}", b'"', b"\\", b",", b":", b'{"a":', b'"a"', b"1", b"NaN", b"-Infinity", b"1e999", b"\\u",
        b'"\\ud800"', b'"\\ud83d\\ude00"', b"d800", b"null", b"\xff", b"\xed\xa0\x80", b"\xc3\xbc", b" ", b"\x00",
    ]),
    max_size=25,
).map(b"".join)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(WRITTEN | WRITTEN | PIECES)
@example(b'{"a":"' + b"[" * 100 + b'"}')
@example(b'{"a":[[]],"b":{"c":[1]},"d":"\\"[[["}')
@example(b'{"a":[[[]]]}')
@example(b'{"a":"\\\\","b":[[1]],"c":"\\\\\\"[["}')
@example(b'{"\\ud800":1}')
@example(b'{"a":"\\ud83d\\ude00"}')
@example(b'{"a":"\\\\ud800"}')
@example(b'{"a":"\\uDC00"}')
@example(b'{"a":"\xed\xa0\x80"}')
@example(b'{"a":1e999}')
@example(b'{"a":NaN}')
@example(b'\xef\xbb\xbf{"a":1}')
@example('{"a":1}'.encode("utf-16"))
@example(b'{"a":1}]')
@example(b"]]]" + b"[" * 5)
@example(b'{"a":1,"a":2}')
def test_bytes_are_read_as_by_a_plain_reader(data: bytes) -> None:
    expected = plainly_read(data) if data else {}
    assert same(read(data), expected)


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(TEXT, VALUES, max_size=4))
@example({"a": [[1]]})
@example({"a": [[[1]]]})
@example({"a": {}, "b": []})
@example({"a": float("inf")})
def test_what_is_written_is_canonical_and_comes_back(select: dict[str, Any]) -> None:
    plain = json.dumps(select, sort_keys=True, separators=(",", ":"))
    fits = depth_of(select) <= LIMITS.select_depth and len(plain) <= LIMITS.select_bytes
    if not fits or "NaN" in plain or "Infinity" in plain:  # our texts hold no such words
        with pytest.raises(KnowledgeError, match="select"):
            dump_select(select, LIMITS)
        return
    data = dump_select(select, LIMITS)
    assert data == (plain.encode() if select else b"")
    if not half_a_character(select):
        assert read(data) == select
