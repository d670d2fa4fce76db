"""Claims are formulas of a few known pieces: they are judged seed by seed, and everything else in them is refused."""

import math
from collections.abc import Mapping

import pytest

from peerlearn.errors import ConfigError
from peerlearn.experiments.spec import claims
from peerlearn.experiments.spec.claims import Claim, ClaimVerdict, judge

VALUES: dict[str, dict[str, tuple[float, ...]]] = {
    "mine": {
        "shared": (0.8, 0.9),
        "cost": (2.0, 4.0),
        "reached": (math.nan, math.nan),
        "half": (math.nan, 0.95),
    },
    "other": {"shared": (0.7, 0.85), "cost": (1.0, 1.0), "reached": (0.5, math.nan)},
}
ROUNDS = ({1: 0.5, 2: 0.8}, {1: 0.6, 2: 0.9})


class Numbers:
    """Two variants with two metrics; `late` has not been run."""

    def values(self, variant: str, metric: str) -> tuple[float, ...]:
        if variant == "late":
            return ()
        if metric not in VALUES[variant]:
            raise ConfigError(f"no metric {metric}")
        return VALUES[variant][metric]

    def series(self, variant: str, metric: str) -> tuple[Mapping[int, float], ...]:
        self.values(variant, metric)
        return ROUNDS if variant == "mine" else ()


def verdict(formula: str) -> ClaimVerdict:
    return judge(Claim(id="1", says="", formula=formula), Numbers())


@pytest.mark.parametrize(
    ("formula", "value", "holds"),
    [
        ("mean(mine.shared) - mean(other.shared) >= 0.07", 0.075, True),
        ("mean(mine.shared - other.shared) >= 0.08", 0.075, False),
        ("min(mine.shared - other.shared) > 0", 0.05, True),
        ("max(mine.cost / other.cost) <= 4", 4.0, True),
        ("median(mine.cost) < 3", 3.0, False),
        ("sd(other.cost) <= 0", 0.0, True),
        ("abs(mean(other.shared) - mean(mine.shared)) <= 0.08", 0.075, True),
        ("-mean(mine.cost) * 2 + 1 >= -5", -5.0, True),
        ("mean(at(mine.shared, 2)) - mean(at(mine.shared, 1)) >= 0.3", 0.3, True),
        ("mean(best(mine.shared)) >= 0.85", 0.85, True),
        ("2 * mean(mine.shared)", 1.7, None),
    ],
)
def test_a_formula_is_judged(formula, value, holds):
    found = verdict(formula)
    assert found.value == pytest.approx(value)
    assert found.holds is holds


NAN = math.nan


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("max(mean(mine.shared), mean(other.shared))", 0.85),
        ("min(mean(mine.shared), mean(other.shared), 0.9)", 0.775),
        ("max(mean(mine.reached), mean(other.shared))", 0.775),
        ("max(mean(other.shared), mean(mine.reached))", 0.775),
        ("min(mean(other.shared), mean(mine.reached))", 0.775),
        ("mean(max(mine.half, other.shared))", (0.7 + 0.95) / 2),
        ("max(mean(mine.reached), mean(other.reached))", NAN),
    ],
)
def test_the_greatest_and_the_least_of_several_leave_out_what_was_not_reached(formula, value):
    found = verdict(formula).value
    assert found is None if math.isnan(value) else found == pytest.approx(value)


def test_the_bar_may_be_the_best_of_several():
    found = verdict("mean(mine.shared) >= max(mean(other.shared), mean(other.reached)) + 0.07")
    assert found.bar == pytest.approx(0.845)
    assert found.holds
    assert verdict("mean(mine.shared) >= max(mean(mine.reached), mean(other.reached))").holds is None


def test_the_bar_may_be_measured_too():
    found = verdict("mean(mine.shared) >= mean(other.shared)")
    assert (found.comparison, found.holds) == (">=", True)
    assert found.bar == pytest.approx(0.775)


@pytest.mark.parametrize(
    "formula",
    ["mean(late.shared) >= 0", "mean(mine.shared - late.shared) > 0", "mean(at(mine.shared, 7)) >= 0", "1 / 0 >= 0"],
)
def test_what_was_not_measured_is_not_judged(formula):
    found = verdict(formula)
    assert found.holds is None
    assert found.value is None or math.isfinite(found.value)


@pytest.mark.parametrize(
    "formula",
    [
        "__import__('os').system('true')",
        "mine.shared.real",
        "mean(mine['shared'])",
        "(lambda: 1)()",
        "mean(mine.shared, 1)",
        "at(mine.shared, mine.shared)",
        "at(1, 2)",
        "mean(values=mine.shared)",
        "0 < mean(mine.shared) < 1",
        "mean(mine.shared) == 1",
        "mean(mine.shared) ** 2",
        "'text' >= 1",
        "True >= 0",
        "shared >= 1",
        "[x for x in mine.shared]",
        "mean(mine.shared >= 1)",
        "mean(",
        "1" * 1200,
    ],
)
def test_anything_else_is_refused(formula):
    with pytest.raises(ConfigError, match="claim 1"):
        Claim(id="1", says="", formula=formula)


def test_a_value_per_seed_is_not_a_number():
    with pytest.raises(ConfigError, match="one value per seed"):
        verdict("mine.shared >= 0.5")
    with pytest.raises(ConfigError, match="one value per seed"):
        verdict("max(mine.shared, other.shared) >= 0.5")


def test_unknown_names_are_errors():
    claim = Claim(id="1", says="", formula="mean(minne.shared) >= 0")
    with pytest.raises(ConfigError, match="did you mean 'mine'"):
        claims.check_names(claim, ["mine", "other"])
    with pytest.raises(ConfigError, match="no metric"):
        verdict("mean(mine.shard) >= 0")


def test_names_in_formulas_have_no_dashes_or_dots():
    assert claims.name_in_formulas("shared_at_private_0.90") == "shared_at_private_0_90"
    claims.check_names(Claim(id="1", says="", formula="mean(q_rest.shared)"), ["q-rest"])
