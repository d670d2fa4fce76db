"""An exchange of one frame each way: a call that costs half of a stream's, for those whose answers are short.

Whether an answer will be short, only the provider knows; the consumer goes by the last answer to such a question. When
it was wrong the answer is kept under a name, and the exchange goes on as a stream from there.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace

import xxhash

from peerlearn.config import Limits, Timing
from peerlearn.errors import Corrupt, KnowledgeError, PeerRefused, Truncated, WireError
from peerlearn.transport.base import Caller, Service, Traffic
from peerlearn.transport.exchange.deadline import Deadline
from peerlearn.transport.exchange.protocol import answer_of, first_of_answer, going_on, reads, refusal_frame, refusal_of
from peerlearn.transport.exchange.resume import ResumableAnswers
from peerlearn.types import Address
from peerlearn.wire.frames import WHOLE_BYTES, Assembler, Message, parse, serialize, whole
from peerlearn.wire.manifest import check_name, our_protocol
from peerlearn.wire.partial_message import PartialMessage
from peerlearn.wire.v1 import fabric_pb2 as pb

MARK = "peerlearn-brief"
"""The metadata of a call that is made so."""

_SINCE = (1, 2)
_Kind = tuple[Address, str, str, bytes]


class UnaryHistory:
    """Which questions were answered shortly the last time, by peers that take brief ones; the least recently asked are
    forgotten first."""

    MOST = 4096

    def __init__(self) -> None:
        self._short: OrderedDict[_Kind, None] = OrderedDict()

    def expected(self, to: Address, question: Message, partial: PartialMessage | None = None) -> bool:
        """Of the answer to this question. One that brings much, or goes on with an answer, is for a stream."""
        if question.header.body_bytes > WHOLE_BYTES or (partial is not None and partial.resume is not None):
            return False
        kind = _kind(to, question)
        if kind not in self._short:
            return False
        self._short.move_to_end(kind)
        return True

    def learn(self, to: Address, question: Message, answer: Message | None) -> None:
        """What has come of it; None: a failure, after which nothing is expected."""
        kind = _kind(to, question)
        if answer is None or answer.header.body_bytes > WHOLE_BYTES or not reads(answer.header.protocol, _SINCE):
            self._short.pop(kind, None)
            return
        self._short[kind] = None
        self._short.move_to_end(kind)
        if len(self._short) > self.MOST:
            self._short.popitem(last=False)


def _kind(to: Address, question: Message) -> _Kind:
    header = question.header
    return to, header.strategy, header.query.want, xxhash.xxh3_128_digest(header.query.select)


async def ask_unary(
    call: Callable[[bytes], Awaitable[bytes | None]],
    question: Message,
    partial: PartialMessage,
    *,
    peer: str,
    timing: Timing,
    limits: Limits,
) -> tuple[Message | None, Traffic]:
    """The consumer's end. None: the answer is longer; `partial` says how to go on.

    `call` gives None when the other end has ended without a frame. Raises PeerUnreachable, PeerRefused or WireError.
    """
    data = serialize(whole(going_on(question, PartialMessage())))
    with Deadline(timing, peer) as patience:
        start = patience.now
        reply = await patience.first(call(data), "no answer")
        seconds = patience.now - start
    if reply is None:
        raise Truncated("the exchange ended before an answer")
    frame = parse(reply, limits)
    traffic = Traffic(len(data), len(reply), seconds=seconds)
    if isinstance(frame, pb.Frame) and frame.HasField("proceed"):
        check_name(frame.proceed.answer)
        partial.promise(frame.proceed.answer)
        return None, traffic
    answer = answer_of(first_of_answer(frame, limits, PartialMessage()).finish(), peer)
    return answer, replace(traffic, body_bytes=answer.header.body_bytes)


async def reply_unary(
    data: bytes,
    service: Service,
    take: Callable[[int], None],
    *,
    caller: Caller,
    limits: Limits,
    unfinished: ResumableAnswers,
) -> bytes:
    """The provider's end, see `exchange.reply`."""
    try:
        question = Assembler(limits).feed(parse(data, limits))
        if question is None:
            raise Truncated("the body of a brief question is not beside its header")
        if question.header.query.HasField("resume"):
            raise Corrupt("a brief question asks to go on with an answer")
        await service.admit(question.header, caller)
        take(question.header.body_bytes)
        answer = await service.answer(question, caller)
    except (PeerRefused, WireError, KnowledgeError) as error:
        return serialize(refusal_frame(*refusal_of(error)))
    if answer.header.body_bytes <= WHOLE_BYTES:
        return serialize(whole(answer))
    name = unfinished.later(answer, question.header.sender, caller)
    return serialize(pb.Frame(proceed=pb.Proceed(protocol=our_protocol(), answer=name)))
