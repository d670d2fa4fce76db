"""Bad providers: whole peers whose answers are bent, frame by frame, on their way out. Kinds and moments are data."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal
from unittest import mock

import xxhash

from peerlearn.config import Limits
from peerlearn.errors import PeerUnreachable, RefusalReason
from peerlearn.transport.base import Caller
from peerlearn.transport.exchange.dispatcher import Dispatcher
from peerlearn.transport.exchange.protocol import Pipe, refusal_frame
from peerlearn.types import PROTOCOL
from peerlearn.wire.frames import Block, parse, serialize
from peerlearn.wire.v1 import fabric_pb2 as pb

Moment = Literal["before", "header", "body", "trailer", "whole"]
"""Before anything is answered; in the header; in the middle of the body; after the body, in the trailer. A short
answer is one frame: for all moments but `whole` it is taken apart into header, blocks and trailer. Answers to unary
calls stay one frame: `before` and `whole` bend them too."""

PIECES = 4
"""Into so many blocks a body is cut, so that it has a middle."""
CRAWL = 1000.0
"""Bytes per second."""


@dataclass(slots=True)
class Plan:
    """What a provider does wrong from now on; nothing while `kind` is empty. `strikes` counts how often it did,
    `in_unary_calls` how often in answer to a unary call."""

    kind: str = ""
    moment: Moment = "before"
    strikes: int = 0
    in_unary_calls: int = 0
    dispatchers: list[Dispatcher] = field(default_factory=list)

    def heal(self) -> None:
        self.kind = ""

    @property
    def at_rest(self) -> bool:
        """No exchange is under way and no memory is held for one, at any of its doors."""
        return all(dispatcher.under_way == (0, 0) for dispatcher in self.dispatchers)


@contextmanager
def badly(plan: Plan) -> Iterator[None]:
    """Peers that open inside the block answer by this plan, over either transport."""
    dispatcher = partial(_BadDispatcher, plan=plan)
    with (
        mock.patch("peerlearn.transport.memory.transport.Dispatcher", dispatcher),
        mock.patch("peerlearn.transport.grpc.transport.Dispatcher", dispatcher),
    ):
        yield


class _BadDispatcher(Dispatcher):
    def __init__(self, *args: Any, plan: Plan) -> None:
        super().__init__(*args)
        self._plan = plan
        plan.dispatchers.append(self)

    async def exchange(self, pipe: Pipe, caller: Caller) -> None:
        plan = self._plan
        await super().exchange(_Bent(pipe, plan) if plan.kind else pipe, caller)

    async def unary_exchange(self, data: bytes, caller: Caller) -> bytes:
        answer, plan = await super().unary_exchange(data, caller), self._plan
        if not plan.kind:
            return answer
        reply, before = _Reply(), plan.strikes
        try:
            await _Bent(reply, plan, whole=True).write(answer)
        finally:
            plan.in_unary_calls += plan.strikes - before
        return reply.said


class _Reply:
    """The answer to a unary call, as a pipe."""

    def __init__(self) -> None:
        self.said = b""

    async def read(self) -> bytes | None:
        return None

    async def write(self, data: bytes) -> None:
        self.said = data

    async def done(self) -> None: ...


class _Bent:
    """A pipe whose outgoing frames pass through the plan's kind from its moment on."""

    def __init__(self, pipe: Pipe, plan: Plan, *, whole: bool = False) -> None:
        self._pipe = pipe
        self.whole = whole or plan.moment == "whole"
        """Whether answers come in one frame here."""
        self._plan = plan
        self._kind = KINDS[plan.kind]
        self._struck = self._over = False
        self._begun = False
        self._pieces = 0

    async def read(self) -> bytes | None:
        return await self._pipe.read()

    async def write(self, data: bytes) -> None:
        for frame in (data,) if self.whole else _pieces(data):
            if self._over:
                return
            if not self._struck and self._now(frame):
                self._struck = True
                self._plan.strikes += 1
                await self._kind.strike(self, frame)
            elif self._struck and self._kind.lasting:
                await self._kind.strike(self, frame)
            else:
                await self.send(frame)

    async def done(self) -> None:
        await self._pipe.done()

    async def send(self, data: bytes) -> None:
        await self._pipe.write(data)

    def close(self) -> None:
        """Nothing more goes out; the call ends as if all had been said."""
        self._over = True

    def _now(self, frame: bytes) -> bool:
        what, first, self._begun = what_is(frame), not self._begun, True
        self._pieces += what == "block"
        if self._plan.moment == "before":
            return first
        if self._plan.moment == "body":
            return what == "packed" or (what == "block" and self._pieces > PIECES // 2)
        if self._plan.moment == "whole":
            return what == "header" and pb.Frame.FromString(frame).whole != b""
        return what == self._plan.moment


@dataclass(frozen=True)
class Kind:
    """`strike` sends what goes out instead of a frame; a `lasting` one does so with all that follow too."""

    strike: Callable[[_Bent, bytes], Awaitable[None]]
    moments: tuple[Moment, ...]
    lasting: bool = False
    harmless: tuple[Moment, ...] = ()
    """Where the exchange comes to a good end all the same, or may."""


async def _dies(pipe: _Bent, frame: bytes) -> None:
    raise PeerUnreachable("", "it died")


async def _stalls(pipe: _Bent, frame: bytes) -> None:
    await asyncio.Event().wait()


async def _crawls(pipe: _Bent, frame: bytes) -> None:
    parsed = parse(frame)
    if not isinstance(parsed, Block):
        await asyncio.sleep(len(frame) / CRAWL)
        await pipe.send(frame)
        return
    for part in itertools.chain.from_iterable(_cut(view, 50) for view in parsed.parts):
        await asyncio.sleep(len(part) / CRAWL)
        await pipe.send(serialize(Block((part,))))


async def _says_more(pipe: _Bent, frame: bytes) -> None:
    await _lies(pipe, frame, by=8)


async def _says_less(pipe: _Bent, frame: bytes) -> None:
    await _lies(pipe, frame, by=-8)


async def _lies(pipe: _Bent, frame: bytes, *, by: int) -> None:
    """A header whose sizes agree among themselves and not with the body; a block whose length is not its own; a body
    that is longer, or shorter, than was said."""
    parsed = parse(frame)
    if isinstance(parsed, Block):
        length = parsed.nbytes + by
        await pipe.send(pb.Frame(block=bytes(max(1, length))).SerializeToString())
    elif parsed.HasField("trailer"):
        if by > 0:
            await pipe.send(serialize(Block((memoryview(bytes(by)),))))
        else:
            pipe.close()
            return
        await pipe.send(frame)
    else:
        header = pb.Header()
        header.CopyFrom(parsed.header)
        if header.tensors:
            last = header.tensors[-1]
            width = header.body_bytes // max(1, sum(t.stored for t in header.tensors))
            del last.shape[:]
            last.shape.append(max(1, last.stored + by))
            header.body_bytes += (last.shape[0] - last.stored) * width
            last.stored = last.shape[0]
        else:
            header.body_bytes = max(0, header.body_bytes + by)
        await pipe.send(serialize(pb.Frame(header=header, whole=parsed.whole)))


async def _garbage(pipe: _Bent, frame: bytes) -> None:
    await pipe.send(bytes((37 * n + 200) % 256 for n in range(max(16, len(frame)))))


async def _flips(pipe: _Bent, frame: bytes) -> None:
    middle = len(frame) // 2
    await pipe.send(frame[:middle] + bytes((frame[middle] ^ 0x10,)) + frame[middle + 1 :])


async def _refuses(pipe: _Bent, frame: bytes) -> None:
    await pipe.send(serialize(refusal_frame(RefusalReason.BUSY, "not now")))
    pipe.close()


async def _closes(pipe: _Bent, frame: bytes) -> None:
    if what_is(frame) == "header" and not pipe.whole:
        await pipe.send(frame)
    pipe.close()


async def _twice(pipe: _Bent, frame: bytes) -> None:
    await pipe.send(frame)
    await pipe.send(frame)


async def _newer_minor(pipe: _Bent, frame: bytes) -> None:
    await _as_header(pipe, frame, lambda header: setattr(header.protocol, "minor", PROTOCOL[1] + 7))


async def _other_major(pipe: _Bent, frame: bytes) -> None:
    await _as_header(pipe, frame, lambda header: setattr(header.protocol, "major", PROTOCOL[0] + 1))


async def _as_another(pipe: _Bent, frame: bytes) -> None:
    await _as_header(pipe, frame, lambda header: setattr(header, "sender", "0" * 32))


async def _as_header(pipe: _Bent, frame: bytes, change: Callable[[pb.Header], None]) -> None:
    parsed = parse(frame)
    assert isinstance(parsed, pb.Frame)
    header = pb.Header()
    header.CopyFrom(parsed.header)
    change(header)
    await pipe.send(serialize(pb.Frame(header=header, whole=parsed.whole)))


_ALL: tuple[Moment, ...] = ("before", "header", "body", "trailer", "whole")
_IN: tuple[Moment, ...] = ("header", "body", "trailer", "whole")
_HEADER: tuple[Moment, ...] = ("header", "whole")

KINDS = {
    "dies": Kind(_dies, _ALL),
    "stalls": Kind(_stalls, _ALL),
    "crawls": Kind(_crawls, _IN, lasting=True, harmless=_IN),
    "says more": Kind(_says_more, _IN),
    "says less": Kind(_says_less, _IN),
    "garbage": Kind(_garbage, _ALL),
    "flips bits": Kind(_flips, _IN),
    "refuses": Kind(_refuses, _ALL),
    "closes": Kind(_closes, _ALL),
    "says twice": Kind(_twice, _IN, lasting=True),
    "newer minor": Kind(_newer_minor, _HEADER, harmless=_HEADER),
    "other major": Kind(_other_major, _HEADER),
    "as another": Kind(_as_another, _HEADER),
}

CASES: tuple[tuple[str, Moment], ...] = tuple((name, moment) for name, kind in KINDS.items() for moment in kind.moments)


def what_is(frame: bytes) -> str:
    """ "header", "proceed", "block", "packed" or "trailer", by the first byte of a frame of our own making."""
    return {0x0A: "header", 0x12: "proceed", 0x1A: "block", 0x22: "packed", 0x2A: "trailer"}[frame[0]]


def _pieces(frame: bytes) -> Iterator[bytes]:
    """The frame, its body cut into PIECES; a body beside a header becomes blocks with the trailer that these need."""
    parsed = parse(frame, Limits())
    if isinstance(parsed, Block):
        (body,) = parsed.parts
        yield from _blocks(body)
    elif parsed.whole:
        yield serialize(pb.Frame(header=parsed.header))
        yield from _blocks(memoryview(parsed.whole))
        yield serialize(pb.Frame(trailer=pb.Trailer(checksum=xxhash.xxh3_64_intdigest(parsed.whole))))
    else:
        yield frame


def _blocks(body: memoryview) -> Iterator[bytes]:
    for part in _cut(body, -(-len(body) // PIECES)):
        yield serialize(Block((part,)))


def _cut(view: memoryview, size: int) -> Iterator[memoryview]:
    for at in range(0, len(view), size):
        yield view[at : at + size]
