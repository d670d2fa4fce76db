"""One exchange, seen from both ends: the same conversation whatever carries it.

consumer: header [await proceed, blocks, trailer]     provider: [proceed] header [blocks, trailer] | refusal

An answer that broke off may be asked to go on: the header comes again, then the blocks that are missing.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Protocol

from peerlearn.config import MIB, Limits, Timing
from peerlearn.errors import (
    ForeignProtocol,
    KnowledgeError,
    Oversized,
    PeerRefused,
    PeerUnreachable,
    RefusalReason,
    Truncated,
    WireError,
)
from peerlearn.text import one_line
from peerlearn.transport.base import Caller, Service, Traffic
from peerlearn.transport.exchange.deadline import Deadline, Overdue
from peerlearn.transport.exchange.fair_queue import Turn, at_once
from peerlearn.transport.exchange.resume import ResumableAnswer, ResumableAnswers
from peerlearn.wire.compress import LinkEstimate, Packer
from peerlearn.wire.frames import BLOCK_BYTES, Assembler, Frame, Message, blocks, parse, serialize
from peerlearn.wire.partial_message import PartialMessage
from peerlearn.wire.protocol import our_protocol
from peerlearn.wire.v1 import fabric_pb2 as pb

DETAIL_CHARS = 500
"""Of a refusal's sentence, sent and believed."""

BUFFERED_BYTES = 8 * MIB
"""What the network's own buffers swallow at once: no measure of how fast the link is."""


class Pipe(Protocol):
    """Frames, as bytes, to and from the other end of one call."""

    async def read(self) -> bytes | None:
        """None when the other end has ended. Raises PeerUnreachable or PeerRefused."""
        ...

    async def write(self, data: bytes) -> None:
        """Returns when there is room for more. Raises PeerUnreachable."""
        ...

    async def done(self) -> None:
        """Nothing more will be written."""
        ...


class _Counted:
    """A pipe's frames under the deadlines, and the bytes that went through."""

    def __init__(self, pipe: Pipe, deadline: Deadline, limits: Limits) -> None:
        self._pipe = pipe
        self.deadline = deadline
        self._limits = limits
        self.turn: Turn = at_once
        self.sent = 0
        self.received = 0

    async def start(self, header: Frame, *, more: bool) -> None:
        """The question's first frame; connects when there is no connection yet."""
        data = serialize(header)
        await self.deadline.first(self._pipe.write(data), "no connection")
        self.sent += len(data)
        if not more:
            await self.done()

    async def first(self, what: str) -> Frame | None:
        return self._parsed(await self.deadline.first(self._pipe.read(), what))

    async def next(self, what: str) -> Frame | None:
        return self._parsed(await self.deadline.next(self._pipe.read(), what))

    async def send(self, frame: Frame) -> int:
        data = serialize(frame)
        await self.deadline.next(self._pipe.write(data), "no room for the next frame")
        self.sent += len(data)
        return len(data)

    async def done(self) -> None:
        await self.deadline.next(self._pipe.done(), "no end")

    async def send_body(self, frames: Iterator[Frame], packer: Packer, link: LinkEstimate) -> None:
        """The frames after the header; tells the link how fast they went, once its buffers are full."""
        loop = asyncio.get_running_loop()
        sent, measured, busy = 0, 0, 0.0
        while True:
            async with self.turn(BLOCK_BYTES):
                frame = await asyncio.to_thread(next, frames, None) if packer.works_hard else next(frames, None)
                if frame is None:
                    break
                start = loop.time()
                size = await self.send(frame)
            sent += size
            if sent > BUFFERED_BYTES:
                measured, busy = measured + size, busy + loop.time() - start
        link.moved(measured, busy)

    async def refuse(self, reason: RefusalReason, detail: str) -> None:
        """Say no, and let the other end finish what it is sending, unread, so that it gets to hear it."""
        self.deadline.begin(0)
        await self.send(refusal_frame(reason, detail))
        with suppress(PeerUnreachable):
            while await self.deadline.next(self._pipe.read(), "no end") is not None:
                pass

    def _parsed(self, data: bytes | None) -> Frame | None:
        if data is None:
            return None
        self.received += len(data)
        return parse(data, self._limits)


async def ask(
    pipe: Pipe,
    question: Message,
    partial: PartialMessage,
    *,
    peer: str,
    timing: Timing,
    limits: Limits,
    link: LinkEstimate,
) -> tuple[Message, Traffic]:
    """The consumer's end; the answer is received into `partial`. Raises PeerUnreachable, PeerRefused or WireError."""
    with Deadline(timing, peer) as deadline:
        wire = _Counted(pipe, deadline, limits)
        try:
            return await _ask(wire, question, partial, peer=peer, limits=limits, link=link)
        except PeerUnreachable as error:
            partial.received += wire.received
            partial.silent = isinstance(error, Overdue)
            raise


async def _ask(
    wire: _Counted, question: Message, partial: PartialMessage, *, peer: str, limits: Limits, link: LinkEstimate
) -> tuple[Message, Traffic]:
    start, deadline = asyncio.get_running_loop().time(), wire.deadline
    packer = Packer(link)
    frames = blocks(going_on(question, partial), packer)
    await wire.start(next(frames), more=bool(question.header.body_bytes))
    frame = await wire.first("no answer")
    if isinstance(frame, pb.Frame) and frame.HasField("proceed"):
        deadline.begin(question.header.body_bytes)
        await wire.send_body(frames, packer, link)
        await wire.done()
        deadline.open()
        frame = await wire.first("no answer")
    elif question.header.body_bytes:
        await wire.done()
    answer, codecs = await _read_answer(wire, frame, limits, partial)
    seconds = asyncio.get_running_loop().time() - start
    return answer_of(answer, peer), Traffic(wire.sent, wire.received, answer.header.body_bytes, seconds, codecs)


async def _read_answer(
    wire: _Counted, frame: Frame | None, limits: Limits, partial: PartialMessage
) -> tuple[Message, str]:
    """To the end of the stream: a call that is not cut short leaves nothing behind at either side."""
    try:
        assembler = first_of_answer(frame, limits, partial)
        if assembler.header is not None:
            wire.deadline.begin(assembler.header.body_bytes)
        while (frame := await wire.next(f"nothing more came {assembler.progress}")) is not None:
            assembler.feed(frame)
        answer = assembler.finish()
    except WireError:
        partial.drop()
        raise
    partial.drop()
    return answer, assembler.codecs


def first_of_answer(frame: Frame | None, limits: Limits, partial: PartialMessage) -> Assembler:
    """Who takes what comes after it. Raises WireError when no answer begins so."""
    if isinstance(frame, pb.Frame) and frame.HasField("header"):
        return partial.take(frame, limits)
    assembler = Assembler(limits)
    if frame is not None:
        assembler.feed(frame)  # says what is wrong with it
    assembler.finish()
    return assembler


def going_on(question: Message, partial: PartialMessage) -> Message:
    """The question, asking for what is missing where something of the answer has come."""
    if question.header.HasField("query"):
        question.header.query.ClearField("resume")
        if (resume := partial.resume) is not None:
            question.header.query.resume.CopyFrom(resume)
    return question


def answer_of(message: Message, peer: str) -> Message:
    """The same. Raises PeerRefused when it is a refusal."""
    if message.header.HasField("refusal"):
        refusal = message.header.refusal
        raise PeerRefused(peer, reason_of(refusal.reason), one_line(refusal.detail, DETAIL_CHARS))
    return message


def reason_of(text: str) -> RefusalReason:
    """A reason from the wire; what this release does not know reads as OTHER."""
    return RefusalReason(text) if text in frozenset(RefusalReason) else RefusalReason.OTHER


def refusal_of(error: PeerRefused | WireError | KnowledgeError) -> tuple[RefusalReason, str]:
    """How an error that a question caused is told to the one who asked."""
    if isinstance(error, PeerRefused):
        return error.reason, error.said[:DETAIL_CHARS]
    if isinstance(error, Oversized):
        return RefusalReason.LIMITS, str(error)[:DETAIL_CHARS]
    if isinstance(error, ForeignProtocol):
        return RefusalReason.PROTOCOL, str(error)[:DETAIL_CHARS]
    reason = RefusalReason.UNFIT if isinstance(error, KnowledgeError) else RefusalReason.OTHER
    return reason, str(error)[:DETAIL_CHARS]


async def reply(
    pipe: Pipe,
    service: Service,
    take: Callable[[int], None],
    *,
    caller: Caller,
    timing: Timing,
    limits: Limits,
    link: LinkEstimate,
    resumable: ResumableAnswers,
    turn: Turn = at_once,
) -> None:
    """The provider's end. Raises PeerUnreachable when the consumer stalls; refusals travel as frames.

    `take` is told how many bytes a question brings before they are allocated, and may raise PeerRefused; `resumable`
    keeps an answer that breaks off. The blocks of a large answer are sent when it is their `turn`.
    """
    with Deadline(timing, caller.host) as deadline:
        wire = _Counted(pipe, deadline, limits)
        await _reply(wire, service, take, caller=caller, limits=limits, link=link, resumable=resumable, turn=turn)


async def _reply(
    wire: _Counted,
    service: Service,
    take: Callable[[int], None],
    *,
    caller: Caller,
    limits: Limits,
    link: LinkEstimate,
    resumable: ResumableAnswers,
    turn: Turn,
) -> None:
    assembler = Assembler(limits)
    packer = Packer(link)
    try:
        question = await _first_of_question(wire, assembler)
        header = assembler.header
        if header is None:
            raise Truncated("the question ended before its header")
        admitted = await service.admit(header, caller)
        answering = resumable.go_on(header, caller)
        if answering is None:
            take(header.body_bytes)
            if question is None:
                question = await _rest_of_question(wire, assembler, header)
            answering = resumable.begin(await service.answer(question, admitted), header.sender, caller)
    except (PeerRefused, WireError, KnowledgeError) as error:
        await wire.refuse(*refusal_of(error))
        return
    if answering.answer.header.body_bytes > BLOCK_BYTES:
        wire.turn = turn
    with resumable.sending(answering):
        await _send_answer(wire, answering, packer, link)


async def _first_of_question(wire: _Counted, assembler: Assembler) -> Message | None:
    frame = await wire.first("no question")
    return assembler.feed(frame) if frame is not None else None


async def _rest_of_question(wire: _Counted, assembler: Assembler, header: pb.Header) -> Message:
    wire.deadline.begin(header.body_bytes)
    await wire.send(pb.Frame(proceed=pb.Proceed(protocol=our_protocol())))
    while True:
        frame = await wire.next(f"nothing more came {assembler.progress}")
        message = assembler.feed(frame) if frame is not None else assembler.finish()
        if message is not None:
            return message


async def _send_answer(wire: _Counted, answering: ResumableAnswer, packer: Packer, link: LinkEstimate) -> None:
    answer = answering.answer
    frames = blocks(answer, packer, start=answering.at, beside=True)
    wire.deadline.begin(answer.header.body_bytes)
    first = next(frames)
    if isinstance(first, pb.Frame) and answering.name:  # the frame's own copy of the header
        first.header.answer, first.header.resumed_at = answering.name, answering.at
    await wire.send(first)
    if answer.header.body_bytes and not (isinstance(first, pb.Frame) and first.whole):
        await wire.send_body(frames, packer, link)


def refusal_frame(reason: RefusalReason, detail: str) -> pb.Frame:
    """No, as an answer's only frame."""
    return pb.Frame(header=pb.Header(protocol=our_protocol(), refusal=pb.Refusal(reason=reason, detail=detail)))
