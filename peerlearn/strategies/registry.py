"""Strategies by name. Ours and third parties' alike are entry points of the group "peerlearn.strategies"."""

import inspect
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, cast

from peerlearn.errors import ConfigError

if TYPE_CHECKING:
    from peerlearn.strategies.base import Strategy

GROUP = "peerlearn.strategies"


def names() -> tuple[str, ...]:
    """All strategies that are installed, in order; imports none of them."""
    return tuple(sorted(_found()))


def make(strategy: "str | Strategy", **options: Any) -> "Strategy":
    """The strategy of this name with these options; an instance is given back as it is.

    Raises ConfigError for an unknown name or option (naming the nearest), and for options beside an instance.
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
    for option in options:
        if option not in known:
            raise ConfigError(f"{strategy} has no option {option!r}, only {', '.join(known)}{_nearest(option, known)}")
    return cast("Strategy", kind(**options))


def _found() -> dict[str, EntryPoint]:
    """Ours win over a third party's of the same name: nobody changes what `pairwise` means."""
    points = sorted(entry_points(group=GROUP), key=lambda p: (p.value.startswith("peerlearn."), p.value))
    return {point.name: point for point in points}


def _nearest(name: str, known: Any) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
