"""Strategies by name. Ours and third parties' are found through entry points of the group "peerlearn.strategies"."""

import inspect
from importlib.metadata import EntryPoint, entry_points
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, cast, get_args, get_origin

from peerlearn.errors import ConfigError
from peerlearn.suggest import did_you_mean

if TYPE_CHECKING:
    from peerlearn.strategies.base import Strategy

GROUP = "peerlearn.strategies"
"""The entry point group in which packages register strategies."""


def names() -> tuple[str, ...]:
    """Names of all installed strategies, sorted; imports none of them."""
    return tuple(sorted(_found()))


def make(strategy: "str | Strategy", **options: Any) -> "Strategy":
    """Build the strategy of this name with these options. An instance is returned unchanged.

    Raises ConfigError for an unknown name or option (with the nearest known one), for a value of the wrong type, and
    for options beside an instance.
    """
    if not isinstance(strategy, str):
        if options:
            raise ConfigError(f"options ({', '.join(options)}) go with a strategy's name; this one is made already")
        return strategy
    found = _found()
    if strategy not in found:
        raise ConfigError(
            f"there is no strategy {strategy!r}, only {', '.join(sorted(found))}{did_you_mean(strategy, found)}"
        )
    try:
        kind = found[strategy].load()
    except (ImportError, AttributeError) as exc:
        raise ConfigError(f"strategy {strategy!r} ({found[strategy].value}) cannot be imported: {exc}") from exc
    known = inspect.signature(kind).parameters
    for option, value in options.items():
        if option not in known:
            near = did_you_mean(option, known)
            raise ConfigError(f"{strategy} has no option {option!r}, only {', '.join(known)}{near}")
        hint = known[option].annotation
        if not _fits(value, hint):
            raise ConfigError(f"{strategy}: {option} is to be {_named(hint)}, not {value!r}")
    return cast("Strategy", kind(**options))


def _fits(value: object, hint: Any) -> bool:
    """True if a plain value has this type. Other types are left to the strategy's own checks."""
    if isinstance(hint, str) or hint is inspect.Parameter.empty:
        return True
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, str)  # the strategy itself checks which words it knows
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return not isinstance(hint, type) or isinstance(value, hint)


def _named(hint: Any) -> str:
    """The type in words, for messages."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_named, get_args(hint)))
    if get_origin(hint) is Literal:
        return "a word"
    names = {int: "a whole number", float: "a number", str: "a word", bool: "true or false", type(None): "null"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _found() -> dict[str, EntryPoint]:
    """Entry points by name. Ours win over a third party's of the same name, so that `pairwise` has one meaning
    everywhere."""
    points = sorted(entry_points(group=GROUP), key=lambda p: (p.value.startswith("peerlearn."), p.value))
    return {point.name: point for point in points}
