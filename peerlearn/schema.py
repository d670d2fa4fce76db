"""Tables from a file (TOML, JSON) as dataclasses: every key is known and of the right type, or refused by its place."""

import dataclasses
import reprlib
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from peerlearn.errors import ConfigError
from peerlearn.suggest import did_you_mean

T = TypeVar("T")

_FLOATS = 2**1023
"""Whole numbers below this are floats too; a file may hold larger ones."""
_SHORT = reprlib.Repr()
"""Shows a value of any size and depth, for a message."""
_SHORT.maxstring = _SHORT.maxother = 80


def read(kind: type[T], table: object, place: str) -> T:
    """An instance of this dataclass from a table of its fields.

    place: where the table stands, for messages; empty: at the top of the file.
    Raises ConfigError, with the place, for an unknown or missing key, a value of another type, and for what the class
    itself refuses.
    """
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
        raise ConfigError(f"{place + ': ' if place else ''}{missing[0]!r} is missing") from None
    except ConfigError as exc:
        raise ConfigError(f"{place}: {exc}" if place else str(exc)) from exc


def check_keys(table: Iterable[str], known: Iterable[str], place: str) -> None:
    """Refuse unknown keys. Raises ConfigError for the first, naming the nearest known one."""
    names = list(known)
    for key in table:
        if key not in names:
            where = f"{place}: " if place else ""
            raise ConfigError(f"{where}unknown key {key!r}; known are {', '.join(names)}{did_you_mean(key, names)}")


def at_least(least: float, **values: float) -> None:
    """Check lower bounds. Raises ConfigError for the first value that is less, or NaN."""
    for name, value in values.items():
        if not value >= least:
            raise ConfigError(f"{name} must be at least {least:g}, not {value:g}")


def share(**values: float) -> None:
    """Check shares. Raises ConfigError for the first value that does not lie between 0 and 1."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} must be a share between 0 and 1, not {value:g}")


def value_of(hint: Any, value: object, place: str) -> Any:
    """The value as the type hint wants it: lists become tuples, tables dataclasses, texts paths, whole numbers floats.

    Raises ConfigError, with the place, for a value of another type.
    """
    hint = getattr(hint, "__supertype__", hint)  # of a NewType
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Literal:
        return _chosen(inner, value, place)
    if origin in (Union, types.UnionType):
        return None if value is None else value_of(next(h for h in inner if h is not type(None)), value, place)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{place}: a list is expected, not {_SHORT.repr(value)}")
        return tuple(value_of(inner[0], item, f"{place}[{i}]") for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{place}: a table is expected, not {_SHORT.repr(value)}")
        return {str(key): value_of(inner[1], item, f"{place}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return read(cast("type[Any]", hint), value, place)
    return _plain(hint, value, place)


def _plain(hint: type, value: object, place: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < _FLOATS:
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", Path: "a path"}
        raise ConfigError(f"{place}: {words[hint]} is expected, not {_SHORT.repr(value)}")
    return value


def _chosen(choices: tuple[Any, ...], value: object, place: str) -> Any:
    if value not in choices:
        near = did_you_mean(value, [c for c in choices if isinstance(c, str)]) if isinstance(value, str) else ""
        raise ConfigError(f"{place}: {_SHORT.repr(value)} is not one of {', '.join(map(str, choices))}{near}")
    return value


def _required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
