"""Claims: small named formulas over what was measured, and whether they hold. Read from the syntax tree, never run.

    mean(pairwise.remote) - mean(isolated.remote) >= 0.03

`VARIANT.METRIC` is a value per seed; `-` and `.` inside a name are written `_`. Arithmetic is seed by seed, so that
`min(a.shared - b.shared)` is the least paired difference. Functions: mean, sd, min, max, median, abs; `at(x.m, 4)` is
the metric after round 4, `best(x.m)` its best round; `max(one, other, ...)` and `min` of several are the greatest and
the least of them, leaving out what was not reached (nan). A formula without a comparison is reported and
not judged.
"""

import ast
import math
import operator
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Protocol

from peerlearn.errors import ConfigError
from peerlearn.suggest import did_you_mean

Value = float | tuple[float, ...]
"""A number, or one per seed."""

_COMPARE: Mapping[type[ast.cmpop], tuple[str, Callable[[float, float], bool]]] = {
    ast.GtE: (">=", operator.ge),
    ast.Gt: (">", operator.gt),
    ast.LtE: ("<=", operator.le),
    ast.Lt: ("<", operator.lt),
}
_ARITHMETIC: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda a, b: a / b if b else float("nan"),
}
_OVER_SEEDS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "sd": lambda values: statistics.stdev(values) if len(values) > 1 else 0.0,
    "min": min,
    "max": max,
    "median": statistics.median,
}
_FUNCTIONS = (*_OVER_SEEDS, "abs", "at", "best")
_MOST_CHARACTERS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """`[[claims]]`. `formula`: see this module; `says`: the claim in words; `note`: why, when it does not hold."""

    id: str
    says: str
    formula: str
    note: str = ""
    report_only: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "report_only", not isinstance(_parsed(self), ast.Compare))


class Measured(Protocol):
    """What was measured. Names are as in formulas, with `_` for `-` and `.`."""

    def values(self, variant: str, metric: str) -> tuple[float, ...]:
        """One per seed, in the order of the seeds; () when the variant was not run. Raises ConfigError for a metric
        that a variant which was run does not have."""
        ...

    def series(self, variant: str, metric: str) -> tuple[Mapping[int, float], ...]:
        """Round to value, one mapping per seed. As `values` otherwise."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimVerdict:
    """`holds` is None when nothing was to be judged, or not everything was measured."""

    claim: Claim
    value: float | None
    comparison: str = ""
    bar: float | None = None
    holds: bool | None = None


def name_in_formulas(name: str) -> str:
    return name.replace("-", "_").replace(".", "_")


def check_names(claim: Claim, variants: Iterable[str]) -> None:
    """Raises ConfigError for the first variant in the formula that is not there."""
    known = [name_in_formulas(name) for name in variants]
    for node in ast.walk(_parsed(claim)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id not in known:
            name = node.value.id
            raise ConfigError(f"claim {claim.id}: there is no variant {name!r}{did_you_mean(name, known)}")


def judge(claim: Claim, measured: Measured) -> ClaimVerdict:
    """Raises ConfigError for a metric that is not measured."""
    tree = _parsed(claim)
    reader = _Reader(claim, measured)
    try:
        if not isinstance(tree, ast.Compare):
            value = reader.number(tree)
            return ClaimVerdict(claim=claim, value=value if math.isfinite(value) else None)
        sign, compare = _COMPARE[type(tree.ops[0])]
        value, bar = reader.number(tree.left), reader.number(tree.comparators[0])
    except _NotMeasured:
        return ClaimVerdict(claim=claim, value=None)
    if not math.isfinite(value) or not math.isfinite(bar):
        return ClaimVerdict(claim=claim, value=None, comparison=sign)
    return ClaimVerdict(claim=claim, value=value, comparison=sign, bar=bar, holds=compare(value, bar))


class _NotMeasured(Exception):
    """A variant of the formula has no runs."""


def _parsed(claim: Claim) -> ast.expr:
    """Raises ConfigError unless the formula is made of nothing but what this module knows."""
    try:
        if len(claim.formula) > _MOST_CHARACTERS:
            raise ValueError(f"longer than {_MOST_CHARACTERS} characters")
        tree = ast.parse(claim.formula.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError) as exc:
        raise ConfigError(f"claim {claim.id}: {claim.formula!r} cannot be read: {exc}") from exc
    _check(claim, tree, top=True)
    return tree


def _check(claim: Claim, node: ast.expr, *, top: bool = False) -> None:
    match node:
        case ast.Compare(left=left, ops=[sign], comparators=[right]) if top and type(sign) in _COMPARE:
            parts = [left, right]
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _ARITHMETIC:
            parts = [left, right]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            parts = [operand]
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            _check_call(claim, name, args)
            parts = args
        case ast.Attribute(value=ast.Name()):
            parts = []
        case ast.Constant(value=value) if isinstance(value, int | float) and not isinstance(value, bool):
            parts = []
        case _:
            raise ConfigError(
                f"claim {claim.id}: {ast.unparse(node)!r} is not understood; formulas are made of VARIANT.METRIC, "
                f"numbers, + - * /, one comparison, and {', '.join(_FUNCTIONS)}"
            )
    for part in parts:
        _check(claim, part)


def _check_call(claim: Claim, name: str, args: Sequence[ast.expr]) -> None:
    wanted = 2 if name == "at" else 1
    if len(args) != wanted and not (name in ("max", "min") and len(args) > 1):
        raise ConfigError(f"claim {claim.id}: {name} takes {wanted} argument{'s' * (wanted > 1)}, not {len(args)}")
    if name in ("at", "best") and not isinstance(args[0], ast.Attribute):
        raise ConfigError(f"claim {claim.id}: {name} takes VARIANT.METRIC first, not {ast.unparse(args[0])!r}")
    if name == "at" and not (isinstance(args[1], ast.Constant) and isinstance(args[1].value, int)):
        raise ConfigError(f"claim {claim.id}: at takes the number of a round, not {ast.unparse(args[1])!r}")


class _Reader:
    """Values of a tree that `_check` has let through."""

    def __init__(self, claim: Claim, measured: Measured) -> None:
        self._claim = claim
        self._measured = measured

    def number(self, node: ast.expr) -> float:
        value = self._value(node)
        if isinstance(value, tuple):
            raise ConfigError(
                f"claim {self._claim.id}: {ast.unparse(node)!r} is one value per seed; say which, as in mean(...)"
            )
        return value

    def _value(self, node: ast.expr) -> Value:
        match node:
            case ast.Constant(value=value) if isinstance(value, int | float):
                return float(value)
            case ast.UnaryOp(operand=operand):
                return _each(operator.sub, 0.0, self._value(operand))
            case ast.BinOp(left=left, op=sign, right=right):
                return _each(_ARITHMETIC[type(sign)], self._value(left), self._value(right))
            case ast.Attribute(value=ast.Name(id=variant), attr=metric):
                return self._values(variant, metric)
            case ast.Call(func=ast.Name(id=name), args=args):
                return self._call(name, args)
        raise AssertionError(ast.dump(node))

    def _values(self, variant: str, metric: str) -> tuple[float, ...]:
        values = self._measured.values(variant, metric)
        if not values:
            raise _NotMeasured
        return values

    def _call(self, name: str, args: Sequence[ast.expr]) -> Value:
        if name == "at":
            assert isinstance(args[1], ast.Constant)
            round_ = args[1].value
            assert isinstance(round_, int)
            return tuple(series.get(round_, float("nan")) for series in self._series(args[0]))
        if name == "best":
            return tuple(max(series.values(), default=float("nan")) for series in self._series(args[0]))
        if len(args) > 1:
            return reduce(partial(_each, _skipping_nan(max if name == "max" else min)), map(self._value, args))
        value = self._value(args[0])
        if name == "abs":
            return tuple(map(abs, value)) if isinstance(value, tuple) else abs(value)
        return _OVER_SEEDS[name](value) if isinstance(value, tuple) else value

    def _series(self, node: ast.expr) -> tuple[Mapping[int, float], ...]:
        assert isinstance(node, ast.Attribute)
        assert isinstance(node.value, ast.Name)
        series = self._measured.series(node.value.id, node.attr)
        if not series:
            raise _NotMeasured
        return series


def _skipping_nan(choose: Callable[[float, float], float]) -> Callable[[float, float], float]:
    """nan only of two nan."""
    return lambda a, b: a if math.isnan(b) else b if math.isnan(a) else choose(a, b)


def _each(operation: Callable[[float, float], float], one: Value, two: Value) -> Value:
    """Seed by seed; a number goes with every seed."""
    if not isinstance(one, tuple) and not isinstance(two, tuple):
        return operation(one, two)
    length = len(one) if isinstance(one, tuple) else len(two) if isinstance(two, tuple) else 0
    ones = one if isinstance(one, tuple) else (one,) * length
    twos = two if isinstance(two, tuple) else (two,) * length
    if len(ones) != len(twos):
        raise _NotMeasured  # one of the two has not been run for all seeds yet
    return tuple(operation(a, b) for a, b in zip(ones, twos, strict=True))
