"""The token bucket of each caller: its burst, its rate, its cap, and how many callers are remembered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerlearn.ratelimit import BURST_SECONDS, CALLERS_MOST, RateLimiter

RATE = 10
BURST = BURST_SECONDS * RATE


def allowed(limiter: RateLimiter, caller: str, moment: float, calls: int = 10 * BURST) -> int:
    return sum(limiter.allows(caller, moment) for _ in range(calls))


def test_each_caller_has_a_burst_and_then_its_rate() -> None:
    limiter = RateLimiter(RATE)
    assert allowed(limiter, "a", 0.0) == BURST
    assert allowed(limiter, "b", 0.0) == BURST, "one caller costs another nothing"
    assert allowed(limiter, "a", 1.0) == RATE
    assert allowed(limiter, "a", 1.05) == 0, "half a call is no call"
    assert allowed(limiter, "a", 1.1) == 1


@pytest.mark.parametrize("quiet", [BURST_SECONDS, 3600.0, 1e9])
def test_a_caller_that_was_quiet_for_long_gets_one_burst_and_no_more(quiet: float) -> None:
    limiter = RateLimiter(RATE)
    assert allowed(limiter, "a", 0.0) == BURST
    assert allowed(limiter, "a", quiet) == BURST
    assert allowed(limiter, "a", quiet + 1) == RATE


@given(st.lists(st.floats(0, 60), max_size=200))
def test_in_no_span_of_time_are_more_calls_allowed_than_burst_and_rate(moments: list[float]) -> None:
    limiter = RateLimiter(RATE)
    taken = [moment for moment in sorted(moments * 3) if limiter.allows("a", moment)]
    for number, first in enumerate(taken):
        for count, last in enumerate(taken[number:], 1):
            assert count <= BURST + (last - first) * RATE + 1e-6


def test_refused_calls_cost_nothing() -> None:
    limiter = RateLimiter(RATE)
    allowed(limiter, "a", 0.0, calls=100_000)
    assert allowed(limiter, "a", 1.0) == RATE


def test_so_many_callers_are_remembered_and_the_one_heard_of_longest_ago_goes_first() -> None:
    limiter = RateLimiter(RATE)
    allowed(limiter, "busy", 0.0)
    allowed(limiter, "idle", 0.0)
    limiter.allows("busy", 0.0)
    for number in range(CALLERS_MOST - 1):
        limiter.allows(number, 0.0)
    assert len(limiter._buckets) == CALLERS_MOST
    assert not limiter.allows("busy", 0.0), "its empty bucket is still here"
    assert allowed(limiter, "idle", 0.0) == BURST, "forgotten: it starts anew"
