"""Backoff: providers that failed and are not asked for a while, each with the reason. Pure bookkeeping."""

from collections.abc import Callable
from dataclasses import dataclass

from peerlearn.errors import PeerRefused, RefusalReason
from peerlearn.types import Card, PeerId

_PASSING = frozenset({RefusalReason.BUSY, RefusalReason.VERSION, RefusalReason.UNKNOWN_PEER, RefusalReason.LEAVING})
"""Refusals that may not be repeated at the next attempt. All others hold until the provider shows another card."""

_REMEMBERED = 1024
"""Upper bound on remembered providers; the oldest entry is dropped first. Small: an entry costs a few hundred bytes."""


@dataclass(slots=True)
class _Pause:
    why: str
    until: float
    """Time on the given clock, in seconds."""
    failures: int
    """Failures in a row."""
    session: str
    serial: int | None
    """Serial of the card to which a lasting refusal applies; None: the pause ends at `until`."""


class Backoff:
    """Decides when a provider that failed may be asked again.

    The pause is `first` seconds after the first failure and doubles with each further one, up to `most` seconds. A
    lasting refusal (exposure, strategy, fit) holds until the provider shows another card. A provider that restarts
    (another session) starts with a clean slate.
    """

    def __init__(self, now: Callable[[], float], *, first: float, most: float) -> None:
        """`now`: the clock, in seconds."""
        self._now = now
        self._first = first
        self._most = most
        self._backoff: dict[PeerId, _Pause] = {}

    def put(self, provider: Card, error: Exception) -> None:
        """Note a failure of this provider. A passing refusal (busy, leaving ...) is not counted and costs no pause."""
        before = self._backoff.get(provider.id)
        failures = before.failures if before and before.session == provider.session else 0
        refused = error.reason if isinstance(error, PeerRefused) else None
        pause = 0.0
        if refused not in _PASSING:
            failures += 1
            pause = min(self._first * 2 ** (failures - 1), self._most)
        for_good = refused is not None and refused not in _PASSING
        if provider.id not in self._backoff and len(self._backoff) >= _REMEMBERED:
            del self._backoff[next(iter(self._backoff))]
        self._backoff[provider.id] = _Pause(
            str(error), self._now() + pause, failures, provider.session, provider.serial if for_good else None
        )

    def clear(self, provider: PeerId) -> None:
        """Forget the failures of this provider: it has answered."""
        self._backoff.pop(provider, None)

    def why(self, provider: Card) -> str | None:
        """Why this provider is not to be asked now; None if it may be asked."""
        entry = self._backoff.get(provider.id)
        if entry is None:
            return None
        if entry.session != provider.session:
            self.clear(provider.id)
            return None
        if entry.serial is not None:
            return entry.why if entry.serial == provider.serial else None
        left = entry.until - self._now()
        return f"{entry.why}; again in {left:.1f} s" if left > 0 else None
