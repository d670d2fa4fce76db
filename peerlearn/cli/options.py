"""Options that several commands have, and how their texts become values. Light: `--help` imports no more than this."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from peerlearn.config import Limits
from peerlearn.errors import ConfigError
from peerlearn.suggest import did_you_mean

GROUP_VARIABLE = "PEERLEARN_GROUP"

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]
GroupFile = Annotated[
    Path | None,
    typer.Option(
        "--group",
        metavar="FILE",
        envvar=GROUP_VARIABLE,
        help="The group file: only its members meet, by mutual TLS (peerlearn group new).",
    ),
]
Static = Annotated[
    list[str] | None, typer.Option("--peer", metavar="HOST:PORT", help="A peer that mDNS cannot find; repeatable.")
]
Exposures = Annotated[
    list[str] | None,
    typer.Option(
        "--expose",
        metavar="[PEER=]WHAT",
        help="What may be shown, to all or to one peer (its name or id); repeatable. Default: what the strategy needs.",
    ),
]
Bounds = Annotated[
    list[str] | None,
    typer.Option(
        "--limit", metavar="NAME=VALUE", help="A bound on what others may send, as body_bytes=512MiB; repeatable."
    ),
]

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="OPTION=VALUE", help="An option of the strategy, as role=hub or members=3; repeatable."
    ),
]

_UNITS = {"": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_VALUE = re.compile(r"(\d{1,15})\s*([KMG]i?B)?", re.IGNORECASE)


def group_file(given: Path | None) -> Path | None:
    """The file given by option or environment. Raises ConfigError when the variable is there and empty: a script that
    lost the name must not start a peer without its group."""
    if given is None and os.environ.get(GROUP_VARIABLE) is not None:
        raise ConfigError(f"{GROUP_VARIABLE} is set, but empty: set it to the group file, or unset it")
    return given


def limits(texts: Iterable[str]) -> Limits:
    """Of `name=value`, where a value may have a unit: 512MiB. Raises ConfigError naming the nearest."""
    known = {f.name for f in fields(Limits)}
    values: dict[str, int] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        match = _VALUE.fullmatch(value.strip())
        if name not in known:
            names = ", ".join(sorted(known))
            raise ConfigError(f"there is no limit {name!r}, only {names}{did_you_mean(name, known)}")
        if not equals or match is None:
            raise ConfigError(f"--limit {text!r}: write {name}=VALUE, a whole number, for bytes also as 64MiB")
        values[name] = int(match[1]) * _UNITS[(match[2] or "").lower()]
    return Limits(**values)


def settings(texts: Iterable[str]) -> dict[str, object]:
    """Of `option=value`, where a value is read as JSON (3, 0.5, true, null), else as the word it is. Which options
    there are is the strategy's to say. Raises ConfigError for what is not written so."""
    values: dict[str, object] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not name or not equals or not value:
            raise ConfigError(f"--set {text!r}: write OPTION=VALUE, as role=hub")
        if name in values:
            raise ConfigError(f"--set {text!r}: {name} is set to {values[name]!r} already; give each option once")
        values[name] = _read(value)
    return values


def _read(value: str) -> object:
    try:
        return json.loads(value)
    except ValueError:
        return value


def exposures(texts: Iterable[str]) -> Mapping[str, tuple[str, ...]] | None:
    """Of `what,what` for everybody and `peer=what,what` for one; None when nothing was said."""
    said: dict[str, list[str]] = {}
    for text in texts:
        who, equals, what = text.rpartition("=")
        if equals and not who:
            raise ConfigError(f"--expose {text!r}: write PEER=WHAT, or just WHAT for everybody")
        items = [item.strip() for item in what.split(",") if item.strip()]
        said.setdefault(who or "*", []).extend(items)
    return {who: tuple(items) for who, items in said.items()} or None
