"""Tables of a TOML file as frozen dataclasses: every key is known, of the right kind, or refused by name and place."""

import dataclasses
import types
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from peerlearn.errors import ConfigError

T = TypeVar("T")


def read(kind: type[T], table: object, place: str) -> T:
    """A dataclass from a table. `place` is where the table stands, for messages. Raises ConfigError."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"{place}: a table is expected, not {table!r}")
    hints = get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(cast("Any", kind)) if field.init]
    check_keys(table, known, place)
    given = {key: value_of(hints[key], value, f"{place}.{key}" if place else key) for key, value in table.items()}
    try:
        return kind(**given)
    except TypeError:
        missing = [f.name for f in dataclasses.fields(cast("Any", kind)) if _required(f) and f.name not in given]
        raise ConfigError(f"{place or 'the experiment'}: {missing[0]!r} is missing") from None
    except ConfigError as exc:
        raise ConfigError(f"{place}: {exc}" if place else str(exc)) from exc


def check_keys(table: Iterable[str], known: Iterable[str], place: str) -> None:
    """Raises ConfigError for the first key that is not known, naming the nearest that is."""
    names = list(known)
    for key in table:
        if key not in names:
            where = f"{place}: " if place else ""
            raise ConfigError(f"{where}unknown key {key!r}{nearest(key, names)}; known are {', '.join(names)}")


def nearest(word: str, words: Iterable[str]) -> str:
    """`; did you mean 'this'?`, or nothing when no word is near."""
    close = get_close_matches(word, list(words), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def at_least(least: float, **values: float) -> None:
    """Raises ConfigError for the first that is less, or not a number."""
    for name, value in values.items():
        if not value >= least:
            raise ConfigError(f"{name} must be at least {least:g}, not {value:g}")


def share(**values: float) -> None:
    """Raises ConfigError for the first that does not lie between 0 and 1."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} must be a share between 0 and 1, not {value:g}")


def value_of(hint: Any, value: object, place: str) -> Any:
    """The value as the hint wants it: lists become tuples, tables dataclasses, whole numbers floats."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Literal:
        return _chosen(inner, value, place)
    if origin in (Union, types.UnionType):
        return None if value is None else value_of(next(h for h in inner if h is not type(None)), value, place)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{place}: a list is expected, not {value!r}")
        return tuple(value_of(inner[0], item, f"{place}[{i}]") for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{place}: a table is expected, not {value!r}")
        return {str(key): value_of(inner[1], item, f"{place}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return read(cast("type[Any]", hint), value, place)
    return _plain(hint, value, place)


def _plain(hint: type, value: object, place: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
        raise ConfigError(f"{place}: {words[hint]} is expected, not {value!r}")
    return value


def _chosen(choices: tuple[Any, ...], value: object, place: str) -> Any:
    if value not in choices:
        near = nearest(value, [c for c in choices if isinstance(c, str)]) if isinstance(value, str) else ""
        raise ConfigError(f"{place}: {value!r} is not one of {', '.join(map(str, choices))}{near}")
    return value


def _required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
