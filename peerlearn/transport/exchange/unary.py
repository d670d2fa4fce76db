"""An exchange as a unary call, one frame each way: it costs half of what a stream does, and fits short answers.

Only the provider knows whether an answer will be short; the consumer goes by the last answer to such a question. When
it was wrong the provider keeps the answer under a name, and the exchange goes on as a stream from there.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import xxhash

from peerlearn.bounded import Bounded
from peerlearn.config import Limits, Timing
from peerlearn.errors import Corrupt, KnowledgeError, PeerRefused, Truncated, WireError
from peerlearn.transport.base import Caller, Service, Traffic
from peerlearn.transport.exchange.deadline import Deadline
from peerlearn.transport.exchange.protocol import answer_of, first_of_answer, refusal_frame, refusal_of
from peerlearn.transport.exchange.resume import ResumableAnswers
from peerlearn.types import Address
from peerlearn.wire.frames import WHOLE_BYTES, Assembler, Message, parse, serialize, whole
from peerlearn.wire.manifest import check_answer_name
from peerlearn.wire.partial_message import PartialMessage
from peerlearn.wire.protocol import our_protocol
from peerlearn.wire.v1 import fabric_pb2 as pb

MARK = "peerlearn-unary"
"""The key of the metadata that marks an exchange made as a unary call."""

_Kind = tuple[Address, str, str, bytes]


class UnaryHistory:
    """Which questions were answered within WHOLE_BYTES the last time; those asked longest ago are forgotten first."""

    MOST = 4096
    """Kinds of questions: sixteen for each of the 256 peers that a directory holds by default."""

    def __init__(self, most: int = MOST) -> None:
        self._short: Bounded[_Kind, None] = Bounded(most)

    def expected(self, to: Address, question: Message, partial: PartialMessage | None = None) -> bool:
        """Whether a short answer is to be expected. A question that brings much or resumes an answer needs a stream."""
        if question.header.body_bytes > WHOLE_BYTES or (partial is not None and partial.resume is not None):
            return False
        kind = _kind(to, question)
        if kind not in self._short:
            return False
        self._short.touch(kind)
        return True

    def learn(self, to: Address, question: Message, answer: Message | None) -> None:
        """`answer`: to this question; None: a failure, after which nothing is expected."""
        kind = _kind(to, question)
        if answer is None or answer.header.body_bytes > WHOLE_BYTES:
            self._short.pop(kind, None)
            return
        self._short[kind] = None


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
    if question.header.HasField("query"):  # else touching it would make one
        question.header.query.ClearField("resume")  # a unary call goes on with nothing
    data = serialize(whole(question))
    with Deadline(timing, peer) as deadline:
        start = deadline.now
        reply = await deadline.first(call(data), "no answer")
        seconds = deadline.now - start
    if reply is None:
        raise Truncated("the exchange ended before an answer")
    frame = parse(reply, limits)
    traffic = Traffic(len(data), len(reply), seconds=seconds)
    if isinstance(frame, pb.Frame) and frame.HasField("proceed"):
        check_answer_name(frame.proceed.answer)
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
    resumable: ResumableAnswers,
) -> bytes:
    """The provider's end, see `exchange.reply`."""
    try:
        question = Assembler(limits).feed(parse(data, limits))
        if question is None:
            raise Truncated("the body of a question by a unary call is not beside its header")
        if question.header.query.HasField("resume"):
            raise Corrupt("a question by a unary call asks to go on with an answer")
        admitted = await service.admit(question.header, caller)
        take(question.header.body_bytes)
        answer = await service.answer(question, admitted)
    except (PeerRefused, WireError, KnowledgeError) as error:
        return serialize(refusal_frame(*refusal_of(error)))
    if answer.header.body_bytes <= WHOLE_BYTES:
        return serialize(whole(answer))
    name = resumable.later(answer, question.header.sender, caller)
    return serialize(pb.Frame(proceed=pb.Proceed(protocol=our_protocol(), answer=name)))
