"""Who we are to others, by which settings we deal with them, and what we do about what they say of us. Values."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from peerlearn.config import Limits, Timing
from peerlearn.discovery.base import Hint
from peerlearn.errors import PeerRefused
from peerlearn.membership.trust import Trust
from peerlearn.types import Card
from peerlearn.wire.v1 import fabric_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class Ourselves:
    """The peer that keeps a directory, or, with an empty `id`, an observer that others do not know."""

    session: str
    timing: Timing
    limits: Limits
    id: str = ""
    trust: Trust | None = None
    """Of our group; None without one."""

    def watch_request(self, *, tells: bool = False) -> pb.WatchRequest:
        """The first message of a watch; `tells`: notices about us follow in the same call."""
        return pb.WatchRequest(id=self.id, session=self.session, tells=tells)

    def rng(self) -> random.Random:
        """A new generator, seeded by the session: no two peers try in step, and a run under a virtual clock repeats."""
        return random.Random(self.session)


def _never(_: object) -> bool:
    return False


def _ignored(card: Card, why: str) -> None:
    return None


def _nothing(_: object) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reactions:
    """What we do about news of ourselves. The defaults are an observer's, of which there is no news."""

    unwanted: Callable[[Hint], bool] = _never
    """Whether this hint is not to be followed."""
    is_me: Callable[[Card], bool] = _never
    """Whether this card is our own, which we got by calling ourselves."""
    complained: Callable[[Card, str], None] = _ignored
    """A peer says why it does not use our knowledge: its card, and its words as they came."""
    refused: Callable[[PeerRefused], None] = _nothing
    """A peer refused us. May raise, which ends the membership."""
