"""Two processes with one identity: each notices the other, and one of them gives way."""

from peerlearn.bounded import Bounded
from peerlearn.clock import now
from peerlearn.config import Timing
from peerlearn.discovery.base import Hint
from peerlearn.errors import IdentityError, PeerRefused, RefusalReason
from peerlearn.membership.introductions import EXCHANGE
from peerlearn.membership.resolving import MEMORY
from peerlearn.types import Card, PeerId

_DOUBTED_FOR = 3
"""In silences (`gone_after` and `suspect_after`): a slow start, or a network that comes late, must not keep a twin from
being found out."""

_DOUBTERS_MOST = 256
"""Peers of which it is remembered when they first refused us: as many as a directory holds by default."""


class Twins:
    """Judges what another process with our identity is noticed by: its card, a hint at it, a refusal because of it."""

    def __init__(self, own: PeerId, timing: Timing) -> None:
        self._own = own
        self._timing = timing
        self._began = 0.0
        self._doubted: Bounded[str, float] = Bounded(_DOUBTERS_MOST)
        """By peer that refused us because of our identity: when it first did."""

    def begin(self) -> None:
        """We appear on the network now."""
        self._began = now()

    def unwanted(self, hint: Hint) -> bool:
        """Whether a hint at our own id is to be passed over. A young peer goes to see whether there is a twin, but
        not from hearsay."""
        mine = bool(hint.id_prefix) and self._own.startswith(hint.id_prefix)
        return mine and (hint.source in (EXCHANGE, MEMORY) or not self._young)

    def outranks(self, twin: Card, ours: Card) -> bool:
        """Whether we give way to this twin, which introduces itself: of two young ones the session decides."""
        return self._young and twin.session < ours.session

    def refused(self, exc: PeerRefused) -> None:
        """A peer refused us because our id is alive elsewhere. Raises IdentityError when that is to be believed.

        Shortly after a restart it is true of our previous session, and a peer that slept meanwhile learns later than
        others that this one is gone: believed is a peer that repeats it for `suspect_after + 2 beats`. Once we have
        been here for long, no single peer's word makes us go.
        """
        since_begin = now() - self._began
        young = since_begin <= _DOUBTED_FOR * (self._timing.gone_after + self._timing.suspect_after)
        if exc.reason is not RefusalReason.IDENTITY or not young:
            return
        since = self._doubted.setdefault(exc.peer, now())
        if now() - since > self._timing.suspect_after + 2 * self._timing.beat:
            raise self.taken(f"refused by {exc.peer}: {exc.said}")

    def taken(self, why: str) -> IdentityError:
        """The error that ends this process's membership."""
        return IdentityError(
            f"the identity {self._own[:12]} is in use elsewhere ({why}): "
            "stop the other process, or give this one its own state directory"
        )

    @property
    def _young(self) -> bool:
        return now() - self._began <= self._timing.suspect_after
