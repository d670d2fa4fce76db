"""A token bucket for each caller (as in RFC 2697, section 3, without the second bucket). The time is passed in."""

from collections.abc import Hashable

from peerlearn.bounded import Bounded

BURST_SECONDS = 5
"""A caller that was quiet may make this many seconds' calls at once: meeting many peers takes a burst."""

CALLERS_MOST = 4096
"""Buckets that are kept. The caller that was heard of longest ago goes first, and would start with a full one again."""


class RateLimiter:
    """At most `rate` calls per second from each caller, after a burst of `BURST_SECONDS * rate`."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._buckets: Bounded[Hashable, tuple[float, float]] = Bounded(CALLERS_MOST)
        """By caller: tokens left, and when they were counted."""

    def allows(self, caller: Hashable, moment: float) -> bool:
        """Whether a call at this monotonic time, in seconds, is within the rate; if so it is counted."""
        most = float(BURST_SECONDS * self._rate)
        left, since = self._buckets.get(caller, (most, moment))
        left = min(most, left + (moment - since) * self._rate)
        allowed = left >= 1
        self._buckets[caller] = (left - 1 if allowed else left, moment)
        return allowed
