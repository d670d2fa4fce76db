"""Answers that broke off, kept by the provider for a while so that the consumer's next attempt goes on with them.

Kept are views of a snapshot's tensors; bytes of its own only where a cast made some.
"""

import asyncio
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from peerlearn.bounded import BoundedBytes
from peerlearn.transport.base import Caller
from peerlearn.wire.frames import BLOCK_BYTES, Message
from peerlearn.wire.manifest import DIGEST_BYTES
from peerlearn.wire.v1 import fabric_pb2 as pb

KEPT_SECONDS = 60.0
"""After an answer broke off: long enough for a provider that was quarantined or backed off to be asked again."""

SENT_SECONDS = 15.0
"""After an answer was sent: megabytes of it may still be in the network's buffers, and be lost with the connection."""


@dataclass(frozen=True, slots=True, eq=False)
class ResumableAnswer:
    """One attempt to send an answer. The very message is kept, not the way to make it again: the same bytes go on,
    whatever was published meanwhile, and its tensors are the snapshot's own."""

    answer: Message
    owner: tuple[str, tuple[bytes, ...]]
    """The peer that asked: its id, and the certificates of its connection."""
    name: bytes
    """Random, so that no other peer asks for it; empty when the answer is too short to resume."""
    at: int = 0
    """The byte of the body to begin at."""

    @property
    def nbytes(self) -> int:
        """Bytes of the whole body."""
        return self.answer.header.body_bytes


class ResumableAnswers:
    """Answers that are being sent, and answers that broke off or have just been sent. Of the latter one is kept per
    consumer, `most` bytes of them together. On the event loop."""

    def __init__(self, most: int, *, broken: float = KEPT_SECONDS, sent: float = SENT_SECONDS) -> None:
        """Answers that broke off are kept for `broken` seconds, and answers that were sent for `sent` seconds."""
        self._times = broken, sent
        self._sending: dict[bytes, ResumableAnswer] = {}
        self._kept: BoundedBytes[bytes, ResumableAnswer] = BoundedBytes(most, lambda kept: kept.nbytes)
        self._expiry: dict[bytes, asyncio.TimerHandle] = {}
        """By name of a kept answer."""

    def __len__(self) -> int:
        """Answers under way, and kept."""
        return len(self._sending) + len(self._kept)

    def begin(self, answer: Message, sender: str, caller: Caller) -> ResumableAnswer:
        """The first attempt to send this answer to this caller."""
        long = answer.header.body_bytes > BLOCK_BYTES
        return ResumableAnswer(answer, (sender, caller.certificates), os.urandom(DIGEST_BYTES) if long else b"")

    def later(self, answer: Message, sender: str, caller: Caller) -> bytes:
        """Keep an answer that is to be asked for by the name returned, from its first byte."""
        answering = ResumableAnswer(answer, (sender, caller.certificates), os.urandom(DIGEST_BYTES))
        self._keep(answering, self._times[0])
        return answering.name

    def go_on(self, header: pb.Header, caller: Caller) -> ResumableAnswer | None:
        """The answer that a question asks to resume; None when it asks for none, for one that is not here, or for one
        that another peer asked for."""
        resume = header.query.resume
        found = self._sending.get(resume.answer) or self._kept.entries.get(resume.answer)
        if found is None or found.owner != (header.sender, caller.certificates):
            return None
        if resume.at > found.nbytes:
            return None
        return ResumableAnswer(found.answer, found.owner, found.name, resume.at)

    @contextmanager
    def sending(self, answering: ResumableAnswer) -> Iterator[None]:
        """Inside the block the answer is sent. It can be resumed from the start: the consumer may notice a lost
        connection before we do."""
        if not answering.name:
            yield
            return
        self._forget(answering.name)
        self._sending[answering.name] = answering
        try:
            yield
        except BaseException:  # a stall, a lost connection, a call that was cancelled: the answer is not through
            self._sent(answering, self._times[0])
            raise
        self._sent(answering, self._times[1])

    def _sent(self, answering: ResumableAnswer, seconds: float) -> None:
        if self._sending.get(answering.name) is answering:  # else a later attempt is sending it
            del self._sending[answering.name]
            self._keep(answering, seconds)

    def _keep(self, answering: ResumableAnswer, seconds: float) -> None:
        same = [name for name, kept in self._kept.entries.items() if kept.owner == answering.owner]
        for name in same:
            self._forget(name)
        expire = asyncio.get_running_loop().call_later(seconds, _expire, weakref.ref(self), answering.name)
        self._expiry[answering.name] = expire
        for gone in self._kept.put(answering.name, answering):
            self._forget(gone.name)

    def _forget(self, name: bytes) -> None:
        self._sending.pop(name, None)
        self._kept.pop(name)
        expiry = self._expiry.pop(name, None)
        if expiry is not None:
            expiry.cancel()


def _expire(resumable: "weakref.ref[ResumableAnswers]", name: bytes) -> None:
    if (there := resumable()) is not None:
        there._forget(name)
