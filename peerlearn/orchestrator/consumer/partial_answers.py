"""PartialAnswers: answers that broke off, kept for a minute, so that the same question resumes where it stopped."""

import asyncio
import weakref
from dataclasses import dataclass

from peerlearn.transport.exchange.resume import KEPT_SECONDS
from peerlearn.types import PeerId
from peerlearn.wire.partial_message import PartialMessage


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    asked: bytes
    partial: PartialMessage
    expiry: asyncio.TimerHandle


class PartialAnswers:
    """At most one partial answer per provider and `most` bytes in all; the oldest is dropped first. Lives on the event
    loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[PeerId, _Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, provider: PeerId, asked: bytes) -> PartialMessage:
        """The part received of the answer to exactly this query (serialized), or an empty message."""
        kept = self._kept.get(provider)
        partial = kept.partial if kept is not None and kept.asked == asked else PartialMessage()
        self._forget(provider)
        return partial

    def keep(self, provider: PeerId, asked: bytes, partial: PartialMessage) -> None:
        """Keep this part for the next attempt, unless the provider cannot resume it."""
        if partial.resume is None:
            return
        self._forget(provider)
        expiry = asyncio.get_running_loop().call_later(KEPT_SECONDS, _expire, weakref.ref(self), provider)
        self._kept[provider] = _Kept(asked, partial, expiry)
        while sum(kept.partial.nbytes for kept in self._kept.values()) > self._most:
            self._forget(next(iter(self._kept)))

    def _forget(self, provider: PeerId) -> None:
        kept = self._kept.pop(provider, None)
        if kept is not None:
            kept.expiry.cancel()


def _expire(partials: "weakref.ref[PartialAnswers]", provider: PeerId) -> None:
    if (there := partials()) is not None:
        there._forget(provider)
