"""Answers that broke off, kept by the provider for a while so that the consumer's next attempt goes on with them.

Kept are views of a snapshot's tensors; bytes of its own only where a cast made some.
"""

import asyncio
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from peerlearn.transport.base import Caller
from peerlearn.wire.frames import BLOCK_BYTES, Message
from peerlearn.wire.manifest import DIGEST_BYTES
from peerlearn.wire.v1 import fabric_pb2 as pb

KEPT_SECONDS = 60.0
"""After an answer broke off: long enough for a provider that was put aside to be asked again."""

SENT_SECONDS = 15.0
"""After an answer was sent: megabytes of it may still be in the network's buffers, and be lost with the connection."""


@dataclass(frozen=True, slots=True, eq=False)
class ResumableAnswer:
    """One attempt to send an answer. The very message is kept, not the way to make it again: the same bytes go on,
    whatever was published meanwhile, and its tensors are the snapshot's own."""

    answer: Message
    owner: tuple[str, tuple[bytes, ...]]
    """Who asked: its id, and the certificates of its connection."""
    name: bytes
    """Random, so that nobody else asks for it; empty when it is too short to go on with."""
    at: int = 0
    """The byte of the body to begin at."""


class ResumableAnswers:
    """What is being sent, by name, and what broke off or has just been sent: one answer per consumer, `most` bytes of
    them together. On the event loop."""

    def __init__(self, most: int, *, broken: float = KEPT_SECONDS, sent: float = SENT_SECONDS) -> None:
        """For how many seconds answers are kept that broke off, and that were sent."""
        self._most = most
        self._times = broken, sent
        self._named: dict[bytes, ResumableAnswer] = {}
        self._expiry: dict[bytes, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        """Answers under way, and kept."""
        return len(self._named)

    def begin(self, answer: Message, sender: str, caller: Caller) -> ResumableAnswer:
        long = answer.header.body_bytes > BLOCK_BYTES
        return ResumableAnswer(answer, (sender, caller.certificates), os.urandom(DIGEST_BYTES) if long else b"")

    def later(self, answer: Message, sender: str, caller: Caller) -> bytes:
        """Keep an answer that is to be asked for by this name, from its first byte."""
        answering = ResumableAnswer(answer, (sender, caller.certificates), os.urandom(DIGEST_BYTES))
        self._named[answering.name] = answering
        self._keep(answering, self._times[0])
        return answering.name

    def go_on(self, header: pb.Header, caller: Caller) -> ResumableAnswer | None:
        """What a question asks to go on with; None when it asks for nothing, or for what is not here, or not its."""
        resume = header.query.resume
        kept = self._named.get(resume.answer)
        if kept is None or kept.owner != (header.sender, caller.certificates):
            return None
        if resume.at > kept.answer.header.body_bytes:
            return None
        return ResumableAnswer(kept.answer, kept.owner, kept.name, resume.at)

    @contextmanager
    def sending(self, answering: ResumableAnswer) -> Iterator[None]:
        """Inside the block it is sent. It can be gone on with from the start: the consumer may notice a lost
        connection before we do."""
        if not answering.name:
            yield
            return
        self._forget(answering.name)
        self._named[answering.name] = answering
        try:
            yield
        except BaseException:  # a stall, a lost connection, a call that was cancelled: the answer is not through
            if self._named.get(answering.name) is answering:
                self._keep(answering, self._times[0])
            raise
        if self._named.get(answering.name) is answering:
            self._keep(answering, self._times[1])

    def _keep(self, answering: ResumableAnswer, seconds: float) -> None:
        for name in [name for name in self._expiry if self._named[name].owner == answering.owner]:
            self._forget(name)
        expire = asyncio.get_running_loop().call_later(seconds, _expire, weakref.ref(self), answering.name)
        self._expiry[answering.name] = expire
        while self._expiry and sum(self._named[n].answer.header.body_bytes for n in self._expiry) > self._most:
            self._forget(next(iter(self._expiry)))

    def _forget(self, name: bytes) -> None:
        self._named.pop(name, None)
        expiry = self._expiry.pop(name, None)
        if expiry is not None:
            expiry.cancel()


def _expire(unfinished: "weakref.ref[ResumableAnswers]", name: bytes) -> None:
    if (there := unfinished()) is not None:
        there._forget(name)
