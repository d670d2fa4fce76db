"""Messages and a service without a learner, for tests of a transport."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from peerlearn.config import Timing
from peerlearn.errors import PeerRefused, RefusalReason
from peerlearn.transport.base import Caller
from peerlearn.types import PROTOCOL
from peerlearn.wire.compress import LinkEstimate, Packer
from peerlearn.wire.frames import Message, blocks, serialize
from peerlearn.wire.v1 import fabric_pb2 as pb

PROTO = pb.Protocol(major=PROTOCOL[0], minor=PROTOCOL[1])
"""The protocol that this release speaks."""
QUICK = Timing(base=0.6, stall=0.3)
"""For tests that wait until a deadline has passed."""


def question(nbytes: int = 0, *, sender: str = "ada", array: NDArray[np.uint8] | None = None) -> Message:
    """A question for parameters that brings `nbytes` random bytes, the same for the same number; or this array."""
    header = pb.Header(protocol=PROTO, sender=sender, query=pb.Query(want="params"))
    return loaded(header, nbytes, array)


def answer(nbytes: int = 0, array: NDArray[np.uint8] | None = None) -> Message:
    """An answer of `nbytes` random bytes, the same for the same number; or of this array."""
    return loaded(pb.Header(protocol=PROTO, sender="bob"), nbytes, array)


def loaded(header: pb.Header, nbytes: int, array: NDArray[np.uint8] | None = None) -> Message:
    """A message of this header with one tensor of so many bytes; without tensors when there are none."""
    header.knowledge.params.architecture = "a"
    body = np.random.default_rng(nbytes).integers(0, 256, nbytes, np.uint8) if array is None else array
    if not len(body):
        return Message(header)
    header.tensors.add(name="w", dtype="uint8", shape=[len(body)], stored=len(body))
    header.body_bytes = len(body)
    return Message(header, (body.data,))


def introduction(group: str = "") -> pb.Introduction:
    """An introduction without cards."""
    return pb.Introduction(protocol=PROTO, group_tag=group)


def body_of(message: Message) -> bytes:
    """The body in one piece."""
    return b"".join(message.body)


def frames_of(message: Message) -> list[bytes]:
    """The message as the frames of a stream, each serialized."""
    return [serialize(frame) for frame in blocks(message, Packer(LinkEstimate(loopback=True)))]


async def echo(asked: Message) -> Message:
    """What a question brought, as its answer."""
    header = pb.Header()
    header.CopyFrom(asked.header)
    header.ClearField("query")
    return Message(header, asked.body)


async def forever(asked: Message) -> Message:
    """No answer, ever."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


@dataclass
class ScriptedService:
    """A peer without a learner: answers as `answers` does, and lets in what `admits` raises nothing for.

    Refuses an introduction with the group tag "strangers", and a watch by "stranger". Each watch gets three beats and a
    goodbye.
    """

    answers: Callable[[Message], Awaitable[Message]] = echo
    admits: Callable[[pb.Header], None] = lambda header: None

    async def introduce(self, introduction: pb.Introduction, caller: Caller) -> pb.Introduction:
        """Knows one peer, "eve". Raises PeerRefused for strangers."""
        if introduction.group_tag == "strangers":
            raise PeerRefused("bob", RefusalReason.GROUP, "another group: überall")
        return pb.Introduction(protocol=PROTO, observed=caller.host, known=[pb.Acquaintance(id="eve")])

    async def told(self, request: pb.WatchRequest, caller: Caller, notices: AsyncIterator[pb.Notice]) -> None:
        """No notices are expected from a watching peer. Raises AssertionError."""
        raise AssertionError("no peer that watches here sends notices")

    async def watch(self, request: pb.WatchRequest, caller: Caller) -> AsyncGenerator[pb.Notice, None]:
        """Three beats and a goodbye. Raises PeerRefused for "stranger"."""
        if request.id == "stranger":
            raise PeerRefused("bob", RefusalReason.UNKNOWN_PEER, "introduce yourself first")
        for count in range(3):
            yield pb.Notice(beat=pb.Beat(count=count))
        yield pb.Notice(goodbye=pb.Goodbye(reason="done"))

    async def admit(self, header: pb.Header, caller: Caller) -> None:
        """As scripted."""
        self.admits(header)

    async def answer(self, asked: Message, admitted: object) -> Message:
        """As scripted."""
        return await self.answers(asked)


@dataclass
class EndlessWatch(ScriptedService):
    """Is watched until the watcher leaves; `left` is set then."""

    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def watch(self, request: pb.WatchRequest, caller: Caller) -> AsyncGenerator[pb.Notice, None]:
        """One version, then silence."""
        try:
            yield pb.Notice(version=1)
            await asyncio.Event().wait()
        finally:
            self.left.set()
