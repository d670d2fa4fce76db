"""Tables from a file as dataclasses: what fits comes out typed, what does not is one sentence with its place."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NewType

import pytest

from peerlearn import schema
from peerlearn.errors import ConfigError

Id = NewType("Id", str)


@dataclass(frozen=True, kw_only=True)
class Inner:
    count: int = 1

    def __post_init__(self) -> None:
        schema.at_least(1, count=self.count)


@dataclass(frozen=True, kw_only=True)
class Outer:
    id: Id
    rate: float = 0.5
    on: bool = False
    place: Path | None = None
    kind: Literal["full", "half"] = "full"
    names: tuple[str, ...] = ()
    inner: Inner = field(default_factory=Inner)
    others: Mapping[str, tuple[Inner, ...]] = field(default_factory=dict)
    free: Any = None


def test_what_fits_comes_out_typed() -> None:
    table = {
        "id": "a1", "rate": 2, "on": True, "place": "/tmp/x", "kind": "half", "names": ["a", "b"],
        "inner": {"count": 3}, "others": {"x": [{"count": 2}, {}]}, "free": [1, {"a": None}],
    }  # fmt: skip
    assert schema.read(Outer, table, "") == Outer(
        id=Id("a1"), rate=2.0, on=True, place=Path("/tmp/x"), kind="half", names=("a", "b"), inner=Inner(count=3),
        others={"x": (Inner(count=2), Inner())}, free=[1, {"a": None}],
    )  # fmt: skip
    assert isinstance(schema.read(Outer, table, "").rate, float)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"id": 1}, "top.id: a text is expected, not 1"),
        ({"id": None}, "top.id: a text is expected, not None"),
        ({"rate": True}, "top.rate: a number is expected, not True"),
        ({"rate": 10**400}, "top.rate: a number is expected, not 1000"),
        ({"on": 0}, "top.on: true or false is expected, not 0"),
        ({"place": ["x"]}, r"top.place: a path is expected, not \['x'\]"),
        ({"kind": "haf"}, "top.kind: 'haf' is not one of full, half; did you mean 'half'?"),
        ({"kind": ["half"]}, r"top.kind: \['half'\] is not one of full, half$"),
        ({"names": "ab"}, "top.names: a list is expected, not 'ab'"),
        ({"names": ["a", 1]}, r"top.names\[1\]: a text is expected, not 1"),
        ({"inner": []}, r"top.inner: a table is expected, not \[\]"),
        ({"inner": {"count": 0}}, "top.inner: count must be at least 1, not 0"),
        ({"inner": {"conut": 1}}, "top.inner: unknown key 'conut'; known are count; did you mean 'count'?"),
        ({"others": {"x": [{"count": "1"}]}}, r"top.others.x\[0\].count: a whole number is expected, not '1'"),
        ({"nmaes": []}, "top: unknown key 'nmaes'; known are .*; did you mean 'names'?"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        schema.read(Outer, {"id": "a1", **changed}, "top")


def test_what_is_missing_is_named_with_and_without_a_place() -> None:
    with pytest.raises(ConfigError, match=r"^top: 'id' is missing$"):
        schema.read(Outer, {}, "top")
    with pytest.raises(ConfigError, match=r"^'id' is missing$"):
        schema.read(Outer, {}, "")
    with pytest.raises(ConfigError, match=r"^top: a table is expected, not 'x'$"):
        schema.read(Outer, "x", "top")


def test_a_message_shows_no_more_than_a_little_of_a_large_or_deep_value() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("x" * 1_000_000, list(range(1_000_000)), deep):
        with pytest.raises(ConfigError) as caught:
            schema.read(Outer, {"id": "a1", "on": value}, "top")
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_shares_lie_between_0_and_1(share: float) -> None:
    schema.share(least=0.0, most=1.0)
    with pytest.raises(ConfigError, match="loss must be a share between 0 and 1"):
        schema.share(loss=share)
