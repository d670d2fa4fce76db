"""Strategies by name. Ours and third parties' alike are entry points of the group "peerlearn.strategies"."""

import inspect
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, cast, get_args, get_origin

from peerlearn.errors import ConfigError

if TYPE_CHECKING:
    from peerlearn.strategies.base import Strategy

GROUP = "peerlearn.strategies"


def names() -> tuple[str, ...]:
    """All strategies that are installed, in order; imports none of them."""
    return tuple(sorted(_found()))


def make(strategy: "str | Strategy", **options: Any) -> "Strategy":
    """The strategy of this name with these options; an instance is given back as it is.

    Raises ConfigError for an unknown name or option (naming the nearest), for a value that cannot be meant, and for
    options beside an instance.
    """
    if not isinstance(strategy, str):
        if options:
            raise ConfigError(f"options ({', '.join(options)}) go with a strategy's name; this one is made already")
        return strategy
    found = _found()
    if strategy not in found:
        raise ConfigError(
            f"there is no strategy {strategy!r}, only {', '.join(sorted(found))}{_nearest(strategy, found)}"
        )
    try:
        kind = found[strategy].load()
    except (ImportError, AttributeError) as exc:
        raise ConfigError(f"strategy {strategy!r} ({found[strategy].value}) cannot be imported: {exc}") from exc
    known = inspect.signature(kind).parameters
    for option, value in options.items():
        if option not in known:
            raise ConfigError(f"{strategy} has no option {option!r}, only {', '.join(known)}{_nearest(option, known)}")
        hint = known[option].annotation
        if not _fits(value, hint):
            raise ConfigError(f"{strategy}: {option} is to be {_named(hint)}, not {value!r}")
    return cast("Strategy", kind(**options))


def _fits(value: object, hint: Any) -> bool:
    """Whether a plain value is of this type; what is not plain is for the strategy itself to judge."""
    if isinstance(hint, str) or hint is inspect.Parameter.empty:
        return True
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, str)  # which of the words is for the strategy to say
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return not isinstance(hint, type) or isinstance(value, hint)


def _named(hint: Any) -> str:
    """For people."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_named, get_args(hint)))
    if get_origin(hint) is Literal:
        return "a word"
    names = {int: "a whole number", float: "a number", str: "a word", bool: "true or false", type(None): "null"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _found() -> dict[str, EntryPoint]:
    """Ours win over a third party's of the same name: nobody changes what `pairwise` means."""
    points = sorted(entry_points(group=GROUP), key=lambda p: (p.value.startswith("peerlearn."), p.value))
    return {point.name: point for point in points}


def _nearest(name: str, known: Any) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
