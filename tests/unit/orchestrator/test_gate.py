"""The gate's verdict: within the tolerance, at it, beyond it, and where there is nothing to judge by."""

from math import inf, nan

import pytest

from peerlearn.errors import ConfigError
from peerlearn.orchestrator.training.gate import Gate


@pytest.mark.parametrize("before", [n / 20 for n in range(2, 21)])
def test_a_fall_by_just_the_tolerance_is_kept_whatever_binary_fractions_make_of_it(before: float) -> None:
    gate = Gate(tolerance=0.1)
    assert gate.judge(before, before - 0.1).kept
    assert gate.judge(before, round(before - 0.1, 10)).kept


@pytest.mark.parametrize("beyond", [1e-6, 1e-3, 0.1])
def test_a_fall_beyond_the_tolerance_is_rolled_back(beyond: float) -> None:
    verdict = Gate(tolerance=0.1).judge(0.8, 0.7 - beyond)
    assert not verdict.kept
    assert "beyond the tolerance of 0.1" in verdict.why


def test_without_tolerance_an_equal_measure_is_kept_and_the_least_fall_is_not() -> None:
    gate = Gate(tolerance=0.0)
    assert gate.judge(0.5, 0.5).kept
    assert gate.judge(0.5, 0.6).kept
    assert not gate.judge(0.5, 0.5 - 1e-6).kept


def test_what_is_not_finite_any_more_is_rolled_back_and_what_was_never_measured_is_kept() -> None:
    for after in (nan, inf, -inf):
        assert not Gate().judge(0.5, after).kept
    assert Gate().judge(nan, 0.1).why == "not measured: nothing held out"
    assert Gate(metric="off").judge(0.9, 0.1).why == "not measured: gate off"


@pytest.mark.parametrize("wrong", [{"tolerance": -0.01}, {"tolerance": 1.01}, {"metric": "loss"}])
def test_settings_that_cannot_work_are_one_sentence(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="gate: "):
        Gate(**wrong)  # type: ignore[arg-type]


def test_gate_keeps_what_falls_little_and_rolls_back_what_falls_far() -> None:
    gate = Gate(tolerance=0.1)
    assert gate.judge(0.80, 0.71).kept
    assert not gate.judge(0.80, 0.69).kept
    assert not gate.judge(0.80, float("nan")).kept
    assert gate.judge(float("nan"), 0.5).kept  # nothing held out: nothing to judge by
    assert Gate(metric="off").judge(0.8, 0.1).kept
