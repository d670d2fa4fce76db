"""Bounded mappings beside a plain model of each: what is kept, what goes first, and what counts as used."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerlearn.bounded import Bounded, BoundedBytes

KEYS = st.integers(0, 7)


def test_a_mapping_without_room_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="at least one entry, not 0"):
        Bounded(0)


@given(st.integers(1, 5), st.lists(st.tuples(st.sampled_from(["set", "default", "touch", "pop"]), KEYS), max_size=60))
def test_bounded_is_a_list_of_which_the_longest_unused_goes(most: int, steps: list[tuple[str, int]]) -> None:
    held: Bounded[int, int] = Bounded(most)
    model: list[tuple[int, int]] = []
    for number, (what, key) in enumerate(steps):
        before = dict(model)
        if what == "set" or (what == "default" and key not in before):
            held[key] = number
            if what == "default":
                assert held.setdefault(key, -1) == number, "one that is there is left alone"
            model = [*((k, v) for k, v in model if k != key), (key, number)][-most:]
        elif what == "touch":
            if key not in before:
                with pytest.raises(KeyError):
                    held.touch(key)
                continue
            held.touch(key)
            model = [*((k, v) for k, v in model if k != key), (key, before[key])]
        elif what == "pop":
            assert held.pop(key, None) == before.get(key)
            model = [(k, v) for k, v in model if k != key]
        assert list(held.items()) == model
        assert all(held.get(k) == v for k, v in model), "to read is not to use"
        assert list(held.items()) == model


def test_every_way_to_write_keeps_the_bound() -> None:
    held: Bounded[int, str] = Bounded(2)
    held.update({1: "a", 2: "b", 3: "c"})
    assert list(held) == [2, 3]
    held.setdefault(4, "d")
    assert list(held) == [3, 4]
    held |= {5: "e"}
    assert list(held) == [4, 5]


@given(st.integers(1, 4), st.sets(KEYS), st.lists(KEYS, max_size=40))
def test_entries_to_keep_go_last_and_the_one_just_written_never(most: int, kept: set[int], keys: list[int]) -> None:
    held: Bounded[int, None] = Bounded(most, keep=kept.__contains__)
    model: list[int] = []
    for key in keys:
        held[key] = None
        model = [*(k for k in model if k != key), key]
        if len(model) > most:
            others = model[:-1]
            model.remove(next((k for k in others if k not in kept), others[0]))
        assert list(held) == model


SIZES = st.integers(0, 12)


@given(st.integers(0, 20), st.lists(st.tuples(st.sampled_from(["put", "put", "get", "pop"]), KEYS, SIZES), max_size=60))
def test_bounded_bytes_is_a_list_whose_oldest_go_until_the_rest_fits(
    most: int, steps: list[tuple[str, int, int]]
) -> None:
    held: BoundedBytes[int, bytes] = BoundedBytes(most, len)
    model: list[tuple[int, bytes]] = []
    for what, key, size in steps:
        before = dict(model)
        rest = [(k, v) for k, v in model if k != key]
        if what == "get":
            assert held.get(key) == before.get(key)
            model = [*rest, (key, before[key])] if key in before else model
        elif what == "pop":
            assert held.pop(key) == before.get(key)
            model = rest
        else:
            value, gone = bytes(size), []
            model = rest if size > most else [*rest, (key, value)]
            while sum(len(v) for _, v in model) > most:
                gone.append(model.pop(0)[1])
            assert held.put(key, value) == ([value] if size > most else gone)
        assert list(held.entries.items()) == model
        assert list(held.newest_first()) == model[::-1]
        assert (len(held), held.nbytes) == (len(model), sum(len(v) for _, v in model))
        assert all((k in held) is (k in dict(model)) for k in range(8))


def test_a_value_that_can_never_fit_pushes_nothing_out() -> None:
    held: BoundedBytes[str, bytes] = BoundedBytes(3, len)
    held.put("a", b"abc")
    assert held.put("b", b"abcd") == [b"abcd"]
    assert dict(held.entries) == {"a": b"abc"}
    held.put("a", b"abcd")
    assert dict(held.entries) == {}, "nor does an older value stand for one that was too large"
