"""One TOML file: an experiment with its variants, its --quick size, the paper's numbers and the claims to be judged."""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from peerlearn.errors import ConfigError, ExtraMissing
from peerlearn.experiments.spec import claims
from peerlearn.experiments.spec.claims import Claim
from peerlearn.experiments.spec.setup import Setup
from peerlearn.schema import at_least, check_keys, read
from peerlearn.strategies import registry
from peerlearn.suggest import did_you_mean

HARNESS = ("central", "local")
"""Strategies of the harness: no peer, no fabric."""
_HEAD = ("name", "title", "seeds", "note", "paper", "claims", "variants", "quick")
_SETUP = tuple(name for name in Setup.__dataclass_fields__ if name not in ("says", "control"))
_OWN = ("says", "control", "quick")
_WHAT_IT_IS = ("name", "kind", "names", "count")
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """`[paper]`: what it says, beside what was measured. `values`: by variant, by metric, accuracies in 0..1."""

    source: str = ""
    note: str = ""
    values: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What the file says beside the set-up. `seeds`: one run of every variant for each."""

    name: str
    title: str = ""
    note: str = ""
    seeds: tuple[int, ...] = (0, 1, 2)
    paper: Paper = field(default_factory=Paper)
    claims: tuple[Claim, ...] = ()

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds must be different whole numbers, at least one, not {list(self.seeds)}")
        if not self.name or not all(c.isalnum() or c in "-_" for c in self.name):
            raise ConfigError(f"name must be of letters, digits, - and _, not {self.name!r}")


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment as it is to be run."""

    head: Head
    variants: Mapping[str, Setup]
    """Resolved, in the order of the file."""
    quick: bool
    """At the size of `--quick`."""
    needs: str = ""
    """The optional package that a variant needs and that is not installed, in a sentence; empty: none."""

    @property
    def name(self) -> str:
        return self.head.name

    def resolved(self, variant: str) -> dict[str, Any]:
        """Everything that decides a run, but the seed: plain values for JSON."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self.variants[variant])))
        return plain

    def digest(self, variant: str) -> str:
        """Of what decides a run: two runs with the same digest and seed are the same run."""
        decisive = {key: value for key, value in self.resolved(variant).items() if key not in ("says", "control")}
        if decisive["faults"] is None:  # runs from before there were any are still the same runs
            del decisive["faults"]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def load(path: Path, *, quick: bool = False, seeds: int | None = None) -> Experiment:
    """`seeds`: that many, counted from the file's first on, instead of those of the file. Raises ConfigError for
    everything that cannot work, with the place; both sizes are checked."""
    document = _document(path)
    try:
        made = {size: _made(document, quick=size, seeds=seeds) for size in (False, True)}
    except ConfigError as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    return made[quick]


def _document(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
        if len(raw) > _MOST_BYTES:
            raise ConfigError(f"{path} is larger than an experiment can be")
        return tomllib.loads(raw.decode("utf-8"))
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}; `peerlearn experiment list` names those there") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is not TOML: {exc}") from exc


def _made(document: Mapping[str, Any], *, quick: bool, seeds: int | None) -> Experiment:
    check_keys(document, [*_HEAD, *_SETUP], "")
    shorter = _table(document.get("quick", {}), "quick", [*_SETUP, "seeds"])
    head_table = {key: document[key] for key in _HEAD if key in document and key not in ("variants", "quick")}
    base = {key: document[key] for key in _SETUP if key in document}
    if quick:
        head_table |= {key: value for key, value in shorter.items() if key == "seeds"}
        base = merged(base, {key: value for key, value in shorter.items() if key != "seeds"})
    if seeds is not None:
        at_least(1, **{"--seeds": seeds})
        first = min(head_table.get("seeds", [0]))
        head_table["seeds"] = list(range(first, first + seeds))
    head = read(Head, head_table, "")
    tables = _table(document.get("variants", {}), "variants", None)
    if not tables:
        raise ConfigError("variants: at least one is needed, [variants.NAME] with what differs")
    variants = {name: _variant(base, table, f"variants.{name}", quick=quick) for name, table in tables.items()}
    needs = next(filter(None, (_check_strategy(setup, f"variants.{name}") for name, setup in variants.items())), "")
    if len({claims.name_in_formulas(name) for name in variants}) < len(variants):
        raise ConfigError("variants: two have the same name in formulas, where - and . are written _")
    _check_mentions(head, variants)
    return Experiment(head, variants, quick, needs)


def _variant(base: Mapping[str, Any], table: object, place: str, *, quick: bool) -> Setup:
    own = _table(table, place, [*_SETUP, *_OWN])
    shorter = _table(own.get("quick", {}), f"{place}.quick", _SETUP)
    whole = merged(base, {key: value for key, value in own.items() if key != "quick"})
    return read(Setup, merged(whole, shorter) if quick else whole, place)


def _check_strategy(setup: Setup, place: str) -> str:
    """The strategy is there and takes its options, at every peer. Raises ConfigError; returns what is not installed."""
    if setup.strategy.name in HARNESS:
        check_keys(setup.strategy.options, ["passes"], f"{place}.strategy.options")
        passes = setup.strategy.options.get("passes", 1)
        if isinstance(passes, bool) or not isinstance(passes, int) or passes < 1 or setup.stream is not None:
            raise ConfigError(f"{place}.strategy: {setup.strategy.name} takes whole passes, and learns from no stream")
        if setup.faults is not None:
            raise ConfigError(f"{place}.faults: {setup.strategy.name} uses no network that could have any")
        return ""
    needs = ""
    for peer in setup.peers.all:
        try:
            needs = needs or _extra(setup.strategy.name, json.dumps(setup.strategy.options_of(peer)))
        except (ConfigError, TypeError) as exc:
            raise ConfigError(f"{place}.strategy: {exc}") from exc
    return f"{place}.strategy: {needs}" if needs else ""


@lru_cache(maxsize=256)
def _extra(strategy: str, options: str) -> str:
    """The optional package that a strategy needs and that is not installed. Raises ConfigError for other faults.

    `options` as JSON. They are the same for many peers and variants: each is made once.
    """
    try:
        registry.make(strategy, **json.loads(options))
    except ExtraMissing as exc:
        return str(exc)
    return ""


def _check_mentions(head: Head, variants: Mapping[str, Setup]) -> None:
    """The paper's numbers and the claims speak of variants that are there."""
    for name in head.paper.values:
        if name not in variants:
            raise ConfigError(f"paper.values: there is no variant {name!r}{did_you_mean(name, variants)}")
    ids = [claim.id for claim in head.claims]
    if len(set(ids)) < len(ids):
        raise ConfigError("claims: two have the same id")
    for claim in head.claims:
        claims.check_names(claim, variants)


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the differences of `more`, table by table. A table that says another name, kind, names or count than
    the base's (another strategy, topology, model, other peers) takes its place: options of the one are not the other's.
    """
    result = dict(base)
    for key, value in more.items():
        here = result.get(key)
        if isinstance(value, Mapping) and isinstance(here, Mapping) and not _another(here, value):
            result[key] = merged(here, value)
        else:
            result[key] = value
    return result


def _another(here: Mapping[str, Any], there: Mapping[str, Any]) -> bool:
    return any(key in here and key in there and here[key] != there[key] for key in _WHAT_IT_IS)


def _table(value: object, place: str, known: list[str] | tuple[str, ...] | None) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{place}: a table is expected, not {value!r}")
    if known is not None:
        check_keys(value, known, place)
    return dict(value)
