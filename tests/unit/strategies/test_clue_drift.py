"""The watch over a stream's error, and the calls for help that come of it: scripted traces, predicted batches."""

import importlib.util
import math
import sys

import pytest
import torch
from torch import Tensor

from peerlearn.errors import ConfigError
from peerlearn.strategies.clue.drift import Method, Watch
from peerlearn.strategies.clue.help_calls import HelpCalls
from peerlearn.testing import bits

CALM, BAD = 0.1, 0.6
RIVER: list[Method] = ["adwin", "page-hinkley", "ddm"]
needs_river = pytest.mark.skipif(importlib.util.find_spec("river") is None, reason="river is an extra: [drift]")


def mistakes(error: float, size: int = 20) -> Tensor:
    """bool (size,) with just this share of mistakes, spread out."""
    return torch.arange(size).mul(7).remainder(size) < round(error * size)


def run(watch: Watch, trace: list[float], own: list[float] | None = None) -> list[str]:
    return [watch.observe(mistakes(e), mistakes(o)) for e, o in zip(trace, own or trace, strict=True)]


def test_5_12_10_a_scripted_trace_triggers_at_the_predicted_batch() -> None:
    """base .1 and margin .1: the mean of three is (.1 + .1 + .6) / 3 = .27 > .2 with the first bad batch."""
    changes = run(Watch(), [CALM] * 15 + [BAD] * 5)
    assert changes == [""] * 15 + ["drift"] + [""] * 4


def test_5_12_10_the_rolling_mean_decides_and_not_one_batch() -> None:
    """Steps of .2: (.1 + .1 + .3) / 3 = .17 is below .2, (.1 + .3 + .3) / 3 = .23 above it."""
    assert run(Watch(), [CALM] * 15 + [0.3] * 3)[15:] == ["", "drift", ""]
    assert run(Watch(), [CALM] * 15 + [0.3, CALM, CALM, 0.3, CALM]) == [""] * 20


def test_5_12_10_no_drift_without_a_base_to_compare_with() -> None:
    watch = Watch()
    assert run(watch, [CALM] * 6 + [BAD] * 6) == [""] * 12
    assert math.isnan(watch.base)


def test_an_absolute_threshold_needs_no_base() -> None:
    watch = Watch(threshold=0.5)
    assert run(watch, [BAD] * 3) == ["", "", "drift"]
    assert run(watch, [0.5] * 3) == ["", "", "recovered"]


def test_the_base_stands_still_while_drifting_and_recovery_is_by_the_own_model() -> None:
    watch = Watch()
    run(watch, [CALM] * 15)
    # the ensemble is good at once, the own model comes back with the eighth batch
    own = [BAD] * 5 + [CALM] * 3
    assert run(watch, [BAD] + [CALM] * 7, own) == ["drift"] + [""] * 6 + ["recovered"]
    assert watch.base == pytest.approx(CALM)
    run(watch, [0.15] * 12)
    assert watch.base == pytest.approx(CALM)  # not mixed with what came before the recovery
    run(watch, [0.15])
    assert watch.base == pytest.approx(0.15)


def test_a_second_drift_is_found_after_recovery() -> None:
    watch = Watch()
    trace = [CALM] * 13 + [BAD] * 3 + [CALM] * 3 + [CALM] * 2 + [BAD]
    assert [n for n, change in enumerate(run(watch, trace)) if change] == [13, 18, 21]


@pytest.mark.parametrize("cut", [5, 14, 17])
def test_a_saved_watch_goes_on_to_the_same_changes(cut: int) -> None:
    trace = [CALM] * 15 + [BAD] * 4 + [CALM] * 4
    one, two, three = Watch(), Watch(), Watch()
    whole = run(one, trace)
    first = run(two, trace[:cut])
    three.load_state_dict(two.state_dict())
    assert first + run(three, trace[cut:]) == whole
    assert bits(three.state_dict()) == bits(one.state_dict())


@needs_river
@pytest.mark.parametrize("method", RIVER)
def test_the_detectors_of_river_find_a_rise_and_not_a_fall(method: Method) -> None:
    calm, rise = [CALM] * 30, [BAD] * 30
    changes = run(Watch(method), calm + rise)
    assert changes.count("drift") == 1
    assert 30 <= changes.index("drift") < 45
    fall = run(Watch(method), rise + calm)
    assert "drift" not in fall


@needs_river
def test_a_detector_of_river_raises_no_alarm_while_there_is_no_base() -> None:
    assert run(Watch("adwin", reference=60), [CALM] * 30 + [BAD] * 20) == [""] * 50
    assert "drift" in run(Watch("adwin", reference=20), [CALM] * 30 + [BAD] * 20)


@needs_river
@pytest.mark.parametrize("method", RIVER)
def test_a_saved_detector_of_river_goes_on_to_the_same_changes(method: Method) -> None:
    trace = [CALM] * 30 + [BAD] * 20 + [CALM] * 5
    one, two, three = Watch(method), Watch(method), Watch(method)
    whole = run(one, trace)
    first = run(two, trace[:31])
    three.load_state_dict(two.state_dict())
    assert first + run(three, trace[31:]) == whole
    assert "drift" in whole
    assert "recovered" in whole


@pytest.mark.parametrize("method", RIVER)
def test_without_river_the_error_tells_how_to_get_it(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("river", "river.drift", "river.drift.binary"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'peerlearn\[drift\]'"):
        Watch(method)


@pytest.mark.parametrize(
    "wrong",
    [{"window": 0}, {"reference": 0}, {"margin": 0.0}, {"tolerance": 0.2}, {"threshold": 1.5}, {"method": "guess"}],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Watch(**wrong)  # type: ignore[arg-type]


# ---------------------------------------------------------------- calls


def calls(**more: float) -> HelpCalls:
    settings = {"window": 3, "delay": 0, "cool_down": 10, "min_samples": 5, "missed": 0.5, "keep": 10} | more
    return HelpCalls(Watch(), **settings)  # type: ignore[arg-type]


def serve(
    its: HelpCalls, failing: set[int], batches: int, *, labels: int = 4, own: set[int] | None = None
) -> list[int]:
    """Ten requests of each class per batch; those of `failing` go to the next class. Batches with a call."""
    y = torch.arange(labels).repeat_interleave(10)

    def logits(fail: set[int]) -> Tensor:
        said = torch.tensor([(int(c) + 1) % labels if int(c) in fail else int(c) for c in y])
        return torch.nn.functional.one_hot(said, labels).float()

    answers = logits(failing), logits(failing if own is None else own)
    return [its.now for _ in range(batches) if "drift" in its.observe(y, *answers)]


def test_the_classes_that_fail_are_called_for() -> None:
    its = calls()
    assert serve(its, set(), 13) == []
    assert serve(its, {2}, 4) == [15]  # the rolling mean is .25 / 3 at 14, .17 at 15
    assert its.wanted == (2,)


def test_where_none_fails_outright_those_above_the_mean_are_called_for() -> None:
    its = calls(missed=0.99, min_samples=5)
    serve(its, set(), 13)
    y, right = torch.tensor([0] * 20 + [1] * 20), torch.nn.functional.one_hot
    said = torch.tensor([0] * 14 + [1] * 6 + [1] * 5 + [0] * 15)  # class 1 is missed at .75, class 0 at .3
    for _ in range(2):
        its.observe(y, right(said, 4).float(), right(said, 4).float())
    assert its.wanted == (1,)


def test_classes_with_few_requests_are_not_called_for() -> None:
    its = calls(min_samples=31)  # there are thirty in three batches
    serve(its, set(), 13)
    assert serve(its, {2, 3}, 8) == []
    assert its.wanted == ()


def test_a_call_that_helped_is_followed_after_the_cool_down_and_one_that_did_not_after_a_window() -> None:
    its = calls(cool_down=6)
    serve(its, set(), 13)
    assert serve(its, {2, 3}, 1) == [14]
    assert serve(its, {2, 3}, 4) == [17]  # nobody had answered
    its.helped("a")  # after batch 18
    assert serve(its, {2, 3}, 8) == [24]
    assert its.tried == ["a"]
    assert its.number == 3


def test_no_further_call_while_the_ensemble_does_well_and_recovery_ends_the_drift() -> None:
    its = calls(cool_down=4)
    serve(its, set(), 13)
    serve(its, {2, 3}, 1)
    its.helped("a")
    assert serve(its, set(), 8, own={2, 3}) == []
    assert its.wanted
    serve(its, set(), 3)
    assert not its.wanted
    assert list(its.tried) == []


def test_the_call_can_be_delayed() -> None:
    at_once, late = calls(), calls(delay=4)
    assert [serve(its, set(), 13) + serve(its, {2, 3}, 6) for its in (at_once, late)] == [[14, 17], [18]]


def test_saved_calls_go_on_alike() -> None:
    one, two = calls(), calls()
    serve(one, set(), 13)
    serve(one, {1, 2}, 1)
    one.helped("b")
    two.load_state_dict(one.state_dict())
    assert serve(one, {1, 2}, 12) == serve(two, {1, 2}, 12) == [24]
    assert bits(one.state_dict()) == bits(two.state_dict())


def test_the_own_models_level_on_certain_classes() -> None:
    its = calls()
    serve(its, set(), 14)
    serve(its, {3}, 3, own={2})
    assert its.learned([3], 3)
    assert not its.learned([2], 3)
    assert its.counts(2) == (20, 20, 20, 20)
