"""Exchanges of one frame each way: who is asked so, what comes of it when the answer is longer, and whom it harms."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import grpc.aio
import psutil
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from peerlearn.config import MIB, Limits, Timing, brisk
from peerlearn.errors import KnowledgeError, Oversized, PeerRefused, PeerUnreachable, RefusalReason, WireError
from peerlearn.knowledge import Query, Question
from peerlearn.testing import SOON, nothing_left, timed, until
from peerlearn.testing.messages import QUICK, ScriptedService, answer, body_of, forever, frames_of, question
from peerlearn.transport.base import Caller, Traffic
from peerlearn.transport.exchange.dispatcher import Dispatcher
from peerlearn.transport.exchange.protocol import Pipe
from peerlearn.transport.exchange.resume import ResumableAnswers
from peerlearn.transport.exchange.unary import MARK, UnaryHistory
from peerlearn.transport.faults.grpc_relay import FaultyRelays
from peerlearn.transport.faults.model import NONE
from peerlearn.transport.grpc.channels import options
from peerlearn.transport.grpc.server import EXCHANGE
from peerlearn.transport.grpc.transport import GrpcTransport
from peerlearn.types import PROTOCOL, Address
from peerlearn.wire.frames import WHOLE_BYTES, Block, Message, parse, serialize, whole
from peerlearn.wire.partial_message import PartialMessage
from peerlearn.wire.v1 import fabric_pb2 as pb
from tests.hostile.recorded import Heard
from tests.support.cycles import few_cycles, nobody
from tests.support.fetching import BOB, fetcher
from tests.support.raw_grpc import exchanging
from tests.support.tls_guests import LAB, guest, meet, revoked

PROTO = pb.Protocol(major=PROTOCOL[0], minor=PROTOCOL[1])
LONG = WHOLE_BYTES + 1
BY_UNARY_CALL = ((MARK, "1"),)


@dataclass
class Doors:
    """Which way exchanges came to servers of this process, and with which frames."""

    ways: list[str] = field(default_factory=list)
    frames: list[list[bytes]] = field(default_factory=list)
    dispatchers: list[Dispatcher] = field(default_factory=list)
    ended: int = 0

    def came(self, way: str, frames: list[bytes]) -> None:
        self.ways.append(way)
        self.frames.append(frames)

    def header(self, number: int = -1) -> pb.Header:
        """Of one of the questions."""
        return pb.Frame.FromString(self.frames[number][0]).header

    @property
    def at_rest(self) -> bool:
        return self.ended == len(self.ways) and all(dispatcher.under_way == (0, 0) for dispatcher in self.dispatchers)


@pytest.fixture
def doors(monkeypatch: pytest.MonkeyPatch) -> Doors:
    seen = Doors()

    class Watched(Dispatcher):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            seen.dispatchers.append(self)

        async def exchange(self, pipe: Pipe, caller: Caller) -> None:
            heard = Heard(pipe)
            seen.came("stream", heard.frames)
            try:
                await super().exchange(heard, caller)
            finally:
                seen.ended += 1

        async def unary_exchange(self, data: bytes, caller: Caller) -> bytes:
            seen.came("unary", [data])
            try:
                return await super().unary_exchange(data, caller)
            finally:
                seen.ended += 1

    monkeypatch.setattr("peerlearn.transport.grpc.transport.Dispatcher", Watched)
    return seen


@dataclass
class Bob(ScriptedService):
    """Gives what it was told to give, and keeps what it was asked."""

    gives: Message | Exception = field(default_factory=lambda: answer(100))
    asked: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.answers = self.give

    async def give(self, asked: Message) -> Message:
        self.asked.append(asked)
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives


@dataclass
class Pair:
    """A consumer, and a provider whose answers it finds short."""

    bob: Bob
    at: Address
    ada: GrpcTransport
    doors: Doors

    async def ask(self, asked: Message | None = None, *, into: PartialMessage | None = None) -> tuple[Message, Traffic]:
        return await self.ada.exchange(self.at, question() if asked is None else asked, into=into)

    async def fails(
        self, error: type[Exception], match: str | None = None, *, asked: Message | None = None
    ) -> Exception:
        with pytest.raises(error, match=match) as caught:
            await self.ask(asked)
        return caught.value


Met = Callable[..., Any]


@pytest.fixture
def met(doors: Doors) -> Met:
    """`async with met() as pair`: one question got a short answer, and the next one will be asked by a unary call."""

    @asynccontextmanager
    async def meeting(*, limits: Limits | None = None, timing: Timing | None = None) -> AsyncIterator[Pair]:
        bob = Bob()
        async with GrpcTransport(limits=limits, timing=timing).serving(bob) as at, GrpcTransport(timing=timing) as ada:
            pair = Pair(bob, at, ada, doors)
            await pair.ask()
            assert doors.ways == ["stream"]
            yield pair
            await until(lambda: doors.at_rest)

    return meeting


def not_modified() -> Message:
    return Message(pb.Header(protocol=PROTO, sender="bob", not_modified=pb.NotModified(version=7)))


# ---------------------------------------------------------------- which way


@pytest.mark.parametrize(
    "given", [not_modified(), answer(1), answer(1000), answer(WHOLE_BYTES)], ids=["not modified", "1", "1000", "most"]
)
async def test_a_provider_of_short_answers_is_asked_by_unary_calls_from_then_on_and_says_the_same(
    met: Met, given: Message
) -> None:
    async with met() as pair:
        pair.ada._unary_history = UnaryHistory()
        pair.bob.gives = given
        by_stream, one = await pair.ask()
        by_unary_call, two = await pair.ask()
        again, _ = await pair.ask()
    assert pair.doors.ways == ["stream", "stream", "unary", "unary"]
    assert by_stream.header == by_unary_call.header == again.header == given.header
    assert body_of(by_stream) == body_of(by_unary_call) == body_of(again) == body_of(given)
    assert two.seconds > 0
    assert replace(one, seconds=0) == replace(two, seconds=0), "the same bytes on the wire"


async def test_a_question_is_the_same_either_way(met: Met) -> None:
    async with met() as pair:
        for asked in (question(500), Message(pb.Header(protocol=PROTO, sender="ada"))):  # and one without a query
            for _ in range(2):
                await pair.ask(asked)
            one, two = pair.bob.asked[-2:]
            assert pair.doors.ways[-1] == "unary"
            assert one.header == two.header
            assert body_of(one) == body_of(two) == body_of(asked)


@pytest.mark.parametrize(
    ("kind", "about", "reason"),
    [
        (PeerRefused, ("bob", RefusalReason.VERSION, "no"), RefusalReason.VERSION),
        (KnowledgeError, ("another shape",), RefusalReason.UNFIT),
        (Oversized, ("too much",), RefusalReason.LIMITS),
    ],
)
async def test_a_refusal_is_the_same_either_way(
    met: Met, kind: type[Exception], about: tuple[Any, ...], reason: RefusalReason
) -> None:
    async with met() as pair:
        pair.bob.gives = kind(*about)  # an error that outlives the test would hold all that its traceback holds
        told = [await pair.fails(PeerRefused) for _ in range(2)]
    assert pair.doors.ways == ["stream", "unary", "stream"], "after a failure nothing is expected"
    one, two = told
    assert isinstance(one, PeerRefused)
    assert one.reason is reason
    assert (one.reason, one.said, one.peer) == (two.reason, two.said, two.peer)
    assert one.peer == str(pair.at)


async def test_what_was_answered_at_length_is_never_asked_by_a_unary_call(met: Met) -> None:
    async with met() as pair:
        pair.ada._unary_history = UnaryHistory()
        pair.bob.gives = answer(LONG)
        for _ in range(3):
            assert body_of((await pair.ask())[0]) == body_of(answer(LONG))
    assert set(pair.doors.ways) == {"stream"}


async def test_of_another_question_and_of_another_peer_nothing_is_expected(met: Met) -> None:
    async with met() as pair, GrpcTransport().serving(Bob()) as elsewhere:
        for change in ({"strategy": "gossip"}, {"want": "outputs"}, {"select": b"{}"}):
            other = question()
            for name, value in change.items():
                setattr(other.header if name == "strategy" else other.header.query, name, value)
            await pair.ask(other)
        await pair.ada.exchange(elsewhere, question())
        assert "unary" not in pair.doors.ways
        await pair.ask()
    assert pair.doors.ways[-1] == "unary"


async def test_what_brings_much_and_what_goes_on_with_an_answer_is_for_a_stream(met: Met) -> None:
    async with met() as pair:
        going_on = PartialMessage()
        going_on.promise(b"x" * 16)
        for asked, into in ((question(LONG), None), (question(), going_on)):
            await pair.ask(asked, into=into)
            assert pair.doors.ways[-1] == "stream"
        await pair.ask(question(WHOLE_BYTES))
    assert pair.doors.ways[-1] == "unary"


# ---------------------------------------------------------------- an answer that has become longer


@pytest.mark.parametrize("size", [LONG, MIB + 5, 3 * MIB + 7])
@pytest.mark.parametrize("brought", [0, 700])
async def test_an_answer_that_has_become_longer_goes_on_as_a_stream(met: Met, size: int, brought: int) -> None:
    async with met() as pair:
        pair.bob.gives, pair.bob.asked = answer(size), []
        asked = question(brought)
        got, traffic = await pair.ask(asked)
        assert body_of(got) == body_of(answer(size))
        assert len(pair.bob.asked) == 1
        assert body_of(pair.bob.asked[0]) == body_of(asked)
        assert pair.doors.ways[1:] == ["unary", "stream"]
        assert pair.doors.header().query.resume.at == 0
        assert len(pair.doors.header().query.resume.answer) == 16
        unary, stream = (sum(map(len, frames)) for frames in pair.doors.frames[1:])
        assert traffic.sent_bytes == unary + stream < 2 * brought + 300, "what it brings, it brings once"
        assert stream < 200
        assert traffic.body_bytes == size
        assert size + 100 < traffic.received_bytes < size + 400
        again, alone = await pair.ask(asked)
        assert body_of(again) == body_of(got)
        assert pair.doors.ways[3:] == ["stream"]
        assert not pair.doors.header().query.HasField("resume")
        promise = pb.Frame(proceed=pb.Proceed(protocol=PROTO, answer=bytes(16))).ByteSize()
        named = 0 if size > MIB else 18  # in the header of one that has a name only because it was promised
        agreed = pb.Frame(proceed=pb.Proceed(protocol=PROTO)).ByteSize() if brought else 0  # to take the body
        assert traffic.received_bytes == alone.received_bytes + promise + named - agreed


async def test_the_very_answer_is_kept_whatever_is_published_meanwhile(met: Met) -> None:
    async with met() as pair:

        async def ever_more(asked: Message) -> Message:
            pair.bob.asked.append(asked)
            return answer(LONG + len(pair.bob.asked))

        pair.bob.answers, pair.bob.asked = ever_more, []
        assert body_of((await pair.ask())[0]) == body_of(answer(LONG + 1))


async def test_a_provider_that_has_forgotten_meanwhile_answers_again(met: Met) -> None:
    for broken, most in ((0.0, 1 << 30), (60.0, LONG - 1)):  # in no time, and in no memory
        async with met() as pair:
            pair.doors.dispatchers[-1]._resumable = ResumableAnswers(most, broken=broken)
            pair.bob.gives, pair.bob.asked = answer(LONG), []
            got, _ = await pair.ask(question(10))
            assert body_of(got) == body_of(answer(LONG))
            assert [body_of(asked) for asked in pair.bob.asked] == [body_of(question(10))] * 2
        pair.doors.ways.clear()
        pair.doors.ended = 0


async def test_what_the_provider_keeps_is_one_answer_for_each_consumer(met: Met) -> None:
    async with met() as pair, channel_to(pair.at) as channel:
        pair.bob.gives = answer(LONG)
        names = [(await ask_by_unary_call(channel, framed(question()))).proceed.answer for _ in range(3)]
        assert len(set(names)) == 3
        assert len(pair.doors.dispatchers[0]._resumable) == 1
        await ask_by_unary_call(channel, framed(question(sender="eve")))
        assert len(pair.doors.dispatchers[0]._resumable) == 2


async def test_nobody_else_gets_an_answer_by_its_name_nor_by_one_that_nobody_was_told(met: Met) -> None:
    async with met() as pair, channel_to(pair.at) as channel:
        pair.bob.gives = answer(LONG)
        promised = await ask_by_unary_call(channel, framed(question()))
        assert promised.proceed.protocol == PROTO
        pair.bob.gives, pair.bob.asked = answer(LONG + 1), []
        for sender, name in (("eve", promised.proceed.answer), ("ada", b"?" * 16)):
            got = await pair.ask(question(sender=sender), into=Named(name))
            assert body_of(got[0]) == body_of(answer(LONG + 1))
        assert len(pair.bob.asked) == 2
        got = await pair.ask(question(), into=Named(promised.proceed.answer))
        assert body_of(got[0]) == body_of(answer(LONG))
        assert len(pair.bob.asked) == 2


class Named(PartialMessage):
    """Asks to go on with the answer of this name, from its first byte."""

    def __init__(self, name: bytes) -> None:
        super().__init__()
        self.promise(name)


async def test_a_stream_that_breaks_after_the_promise_is_tried_again_and_one_that_falls_silent_is_not(
    met: Met, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the fetcher, whose failures may cost one stall window each."""

    async def breaks(*_: object, **more: object) -> None:
        raise PeerUnreachable("", "it died")

    async def stalls(*_: object, **more: object) -> None:
        await asyncio.Event().wait()

    async with met(timing=QUICK) as pair:
        for goes, tries in ((breaks, 2), (stalls, 1)):
            fetching = fetcher(pair.ada, pair.at)
            pair.bob.gives = pb_answer(0)
            asked = Question(Query(want="nothing"))
            await fetching.fetch(BOB, asked, patience=1)
            pair.bob.gives = pb_answer(LONG)
            with monkeypatch.context() as patch:
                patch.setattr("peerlearn.transport.exchange.dispatcher.reply", goes)
                before = len(pair.doors.ways)
                with pytest.raises(PeerUnreachable):
                    await fetching.fetch(BOB, asked, patience=1)
            assert pair.doors.ways[before:] == ["unary"] + ["stream"] * tries


def pb_answer(nbytes: int) -> Message:
    """In the name of the fetcher's provider."""
    made = answer(nbytes) if nbytes else not_modified()
    made.header.sender = BOB
    return made


# ---------------------------------------------------------------- questions that bring something


async def test_what_a_question_brings_goes_beside_its_header_and_is_counted_while_it_is_held(met: Met) -> None:
    async with met(limits=Limits(held_bytes=1500)) as pair:
        (dispatcher,) = pair.doors.dispatchers
        let = asyncio.Event()

        async def slowly(asked: Message) -> Message:
            await let.wait()
            return answer(1)

        pair.bob.answers = slowly
        async with asyncio.TaskGroup() as group:
            first = group.create_task(pair.ask(question(1000)))
            await until(lambda: dispatcher.under_way == (1, 1000))
            assert pair.doors.ways[1:] == ["unary"]
            assert pair.doors.frames[-1] == [serialize(whole(question(1000)))]
            refused = await pair.fails(PeerRefused, "1000 bytes already: try again", asked=question(501))
            assert isinstance(refused, PeerRefused)
            assert refused.reason is RefusalReason.BUSY
            let.set()
        assert first.result()
        assert await pair.ask(question(1500))
        assert pair.doors.ways[1:] == ["unary", "unary", "unary"]


async def test_a_question_that_is_not_admitted_is_not_answered_and_nothing_is_held_for_it(met: Met) -> None:
    async with met(limits=Limits(held_bytes=10)) as pair:
        pair.bob.asked = []

        def refuse(header: pb.Header) -> None:
            raise PeerRefused("bob", RefusalReason.EXPOSURE, f"not for {header.sender}")

        pair.bob.admits = refuse
        refused = await pair.fails(PeerRefused, "not for ada", asked=question(100))
        assert isinstance(refused, PeerRefused)
        assert refused.reason is RefusalReason.EXPOSURE, "it is asked before memory is"
        assert pair.doors.ways[1:] == ["unary"]
        assert not pair.bob.asked


# ---------------------------------------------------------------- hostile questions


@asynccontextmanager
async def channel_to(at: Address) -> AsyncIterator[grpc.aio.Channel]:
    own: list[Any] = [*options(Limits()), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(str(at), options=own) as channel:
        yield channel


async def ask_by_unary_call(channel: grpc.aio.Channel, data: bytes) -> pb.Frame:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(EXCHANGE)
    frame = parse(await asyncio.wait_for(call(data, metadata=BY_UNARY_CALL), SOON))
    assert isinstance(frame, pb.Frame)
    return frame


def framed(message: Message) -> bytes:
    return serialize(whole(message))


def beside(nbytes: int, body: bytes, **header: Any) -> bytes:
    """A question of `nbytes` with this beside it."""
    made = question(nbytes).header
    for name, value in header.items():
        getattr(made, name).CopyFrom(value)
    return serialize(pb.Frame(header=made, whole=body))


def resuming(at: int) -> bytes:
    made = question()
    made.header.query.resume.CopyFrom(pb.Resume(answer=b"x" * 16, at=at))
    return framed(made)


GOOD = framed(question(100))
HOSTILE = {
    "garbage": (b"\xff" * 100, RefusalReason.OTHER),
    "empty": (b"", RefusalReason.OTHER),
    "a block": (serialize(Block((memoryview(b"abc"),))), RefusalReason.OTHER),
    "a trailer": (pb.Frame(trailer=pb.Trailer(checksum=1)).SerializeToString(), RefusalReason.OTHER),
    "a proceed": (pb.Frame(proceed=pb.Proceed(protocol=PROTO)).SerializeToString(), RefusalReason.OTHER),
    "a body without a header": (pb.Frame(whole=b"abc").SerializeToString(), RefusalReason.OTHER),
    "nothing beside it": (beside(100, b""), RefusalReason.OTHER),
    "less beside it": (beside(100, b"x" * 99), RefusalReason.OTHER),
    "more beside it": (beside(100, b"x" * 101), RefusalReason.OTHER),
    "beside what has no body": (beside(0, b"x"), RefusalReason.OTHER),
    "a wrong seal": (GOOD[:-1] + bytes((GOOD[-1] ^ 1,)), RefusalReason.OTHER),
    "a flipped body": (GOOD[:-20] + bytes((GOOD[-20] ^ 1,)) + GOOD[-19:], RefusalReason.OTHER),
    "a foreign protocol": (beside(0, b"", protocol=pb.Protocol(major=2)), RefusalReason.PROTOCOL),
    "going on": (resuming(5), RefusalReason.OTHER),
    "going on at the beginning": (resuming(0), RefusalReason.OTHER),
    "too large for a header": (b"\x0a" + b"\xff" * (3 * MIB), RefusalReason.LIMITS),
    "a body as large as it likes": (beside(LONG, bytes(LONG))[:-9] + b"\x72\x00", RefusalReason.OTHER),
    "huge": (serialize(pb.Frame(header=pb.Header(protocol=PROTO, body_bytes=1 << 50))), RefusalReason.LIMITS),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_question_gets_one_refusal_and_the_connection_and_the_server_go_on(met: Met, name: str) -> None:
    data, reason = HOSTILE[name]
    async with met() as pair, channel_to(pair.at) as channel:
        pair.bob.asked = []
        for _ in range(2):
            refused = (await ask_by_unary_call(channel, data)).header
            assert refused.refusal.reason == reason
            assert refused.refusal.detail
            assert refused.protocol == PROTO
        assert not pair.bob.asked
        assert body_of(parsed(await ask_by_unary_call(channel, framed(question())))) == body_of(answer(100))
        assert body_of((await pair.ask())[0]) == body_of(answer(100))
        assert set(pair.doors.ways[1:]) == {"unary"}


def parsed(frame: pb.Frame) -> Message:
    return Message(frame.header, (memoryview(frame.whole),))


async def test_a_frame_larger_than_the_transport_takes_is_refused_by_a_status(met: Met) -> None:
    async with met() as pair, channel_to(pair.at) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask_by_unary_call(channel, bytes(9 * MIB))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await ask_by_unary_call(channel, framed(question()))).HasField("header")
        assert await pair.ask()


async def test_a_question_that_never_comes_takes_no_place(met: Met) -> None:
    async with met(limits=Limits(exchanges=1)) as pair, channel_to(pair.at) as channel:
        silent: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(EXCHANGE)
        calls = [silent(metadata=BY_UNARY_CALL) for _ in range(3)]
        await calls[0].done_writing()
        assert await pair.ask()
        assert (await ask_by_unary_call(channel, framed(question()))).HasField("header")
        for call in calls:
            call.cancel()


# ---------------------------------------------------------------- hostile answers


@dataclass
class Liar:
    """Answers truly by a stream, and a unary call with what it was told to say."""

    lie: tuple[bytes, ...] = ()
    truth: list[bytes] = field(default_factory=lambda: frames_of(answer(50)))
    stays: bool = False
    asked: list[tuple[str, bytes]] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def exchange(self, _: AsyncIterator[bytes], context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        data: object = await context.read()
        assert isinstance(data, bytes)
        by_unary_call = any(key == MARK for key, _ in context.invocation_metadata() or ())
        self.asked.append(("unary" if by_unary_call else "stream", data))
        try:
            for frame in self.lie if by_unary_call else self.truth:
                await context.write(frame)
            if self.stays and by_unary_call:
                await asyncio.Event().wait()
        finally:
            self.left.set()

    @property
    def ways(self) -> list[str]:
        return [way for way, _ in self.asked]


def lying(nbytes: int, body: bytes) -> bytes:
    return serialize(pb.Frame(header=answer(nbytes).header, whole=body))


def gone_on(nbytes: int) -> bytes:
    header = answer(nbytes).header
    header.resumed_at = 5
    return serialize(pb.Frame(header=header, whole=body_of(answer(nbytes))))


def with_protocol(protocol: pb.Protocol) -> bytes:
    header = answer().header
    header.protocol.CopyFrom(protocol)
    return serialize(pb.Frame(header=header))


TRUE = lying(50, body_of(answer(50)))
LIES = {
    "garbage": b"\xff" * 100,
    "empty": b"",
    "nothing": None,
    "a block": serialize(Block((memoryview(b"abc"),))),
    "a trailer": pb.Frame(trailer=pb.Trailer(checksum=1)).SerializeToString(),
    "nothing beside it": lying(50, b""),
    "less beside it": lying(50, b"x" * 49),
    "more beside it": lying(50, b"x" * 51),
    "a wrong seal": TRUE[:-1] + bytes((TRUE[-1] ^ 1,)),
    "a flipped body": TRUE[:-20] + bytes((TRUE[-20] ^ 1,)) + TRUE[-19:],
    "gone on with": gone_on(50),
    "a foreign protocol": with_protocol(pb.Protocol(major=2)),
    "huge": serialize(pb.Frame(header=pb.Header(protocol=PROTO, body_bytes=1 << 50))),
    "too large for a frame": b"\x12" + b"\xff" * (2 * MIB + 100),
    "too large for the transport": bytes(9 * MIB),
    "a name without an end": pb.Frame(proceed=pb.Proceed(protocol=PROTO, answer=bytes(17))).SerializeToString(),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_lying_answer_is_an_error_by_name_and_the_next_question_goes_by_a_stream(name: str) -> None:
    said = LIES[name]
    liar = Liar(() if said is None else (said,))
    async with nothing_left(more_fds=32), exchanging(liar.exchange) as at, GrpcTransport(timing=brisk()) as ada:
        for _ in range(2):
            assert body_of((await ada.exchange(at, question()))[0]) == body_of(answer(50))
            partial = PartialMessage()
            with pytest.raises(WireError):
                await ada.exchange(at, question(), into=partial)
            assert partial.resume is None, "nothing of it is gone on with"
        assert liar.ways == ["stream", "unary", "stream", "unary"]


async def test_a_promise_without_a_name_is_a_call_to_ask_again() -> None:
    liar = Liar((pb.Frame(proceed=pb.Proceed()).SerializeToString(),))
    async with exchanging(liar.exchange) as at, GrpcTransport(timing=brisk()) as ada:
        await ada.exchange(at, question())
        got, _ = await ada.exchange(at, question())
    assert body_of(got) == body_of(answer(50))
    assert liar.ways == ["stream", "unary", "stream"]
    assert not pb.Frame.FromString(liar.asked[-1][1]).header.query.HasField("resume")


async def test_whoever_promises_and_then_lies_is_an_error_too_and_its_promise_is_forgotten() -> None:
    """A promise, and then a stream that is no answer."""
    liar = Liar((pb.Frame(proceed=pb.Proceed(answer=b"n" * 16)).SerializeToString(),))
    async with exchanging(liar.exchange) as at, GrpcTransport(timing=brisk()) as ada:
        await ada.exchange(at, question())
        partial = PartialMessage()
        liar.truth = frames_of(answer(50))[:2]
        with pytest.raises(WireError):
            await ada.exchange(at, question(), into=partial)
        assert partial.resume is None
        assert pb.Frame.FromString(liar.asked[-1][1]).header.query.resume == pb.Resume(answer=b"n" * 16)
        liar.truth = frames_of(answer(50))
        assert await ada.exchange(at, question())
    assert liar.ways == ["stream", "unary", "stream", "stream"]


async def test_more_than_one_frame_costs_one_window() -> None:
    liar = Liar((TRUE,) * 3)
    async with exchanging(liar.exchange) as at, GrpcTransport(timing=QUICK) as ada:
        await ada.exchange(at, question())
        with timed() as watch, pytest.raises((PeerUnreachable, WireError)):
            await ada.exchange(at, question())
        assert watch.seconds < QUICK.base + 1
        assert await ada.exchange(at, question())
    assert liar.ways == ["stream", "unary", "stream"]


# ---------------------------------------------------------------- silence, and those who leave


async def test_a_provider_that_stalls_costs_one_window_and_learns_that_nobody_waits() -> None:
    liar = Liar(stays=True)
    async with nothing_left(more_fds=32), exchanging(liar.exchange) as at, GrpcTransport(timing=QUICK) as ada:
        await ada.exchange(at, question())
        liar.left.clear()
        with timed() as watch, pytest.raises(PeerUnreachable, match=r"no answer within 0\.6 s"):
            await ada.exchange(at, question())
        assert watch.seconds < QUICK.base + 1
        await asyncio.wait_for(liar.left.wait(), SOON)
        assert await ada.exchange(at, question())
    assert liar.ways == ["stream", "unary", "stream"]


async def test_whoever_is_cancelled_ends_the_call_at_the_other_side_too(met: Met) -> None:
    async with met(limits=Limits(exchanges=1)) as pair, nothing_left():
        started, ended = asyncio.Event(), asyncio.Event()

        async def hangs(asked: Message) -> Message:
            started.set()
            try:
                return await forever(asked)
            except asyncio.CancelledError:
                ended.set()
                raise

        pair.bob.answers = hangs
        for give_up in (True, False):
            started.clear()
            ended.clear()
            pair.ada._unary_history.learn(pair.at, question(), answer(1))
            async with asyncio.TaskGroup() as group:
                task = group.create_task(pair.ask())
                await started.wait()
                assert pair.doors.ways[-1] == "unary"
                assert pair.doors.dispatchers[0].under_way == (1, 0)
                task.cancel()
                if give_up:
                    task.cancel()  # whoever cancels twice does not wait for longer, nor for less
            assert task.cancelled()
            await asyncio.wait_for(ended.wait(), SOON)
            await until(lambda: pair.doors.at_rest)
        pair.bob.answers = pair.bob.give
        assert await pair.ask()
        assert pair.doors.ways[-1] == "stream", "nothing is expected of whoever was not waited for"


async def test_cancelled_calls_leave_no_memory_behind(met: Met) -> None:
    """gRPC keeps what an operation holds whose await is cancelled: 15 KB for each of these."""
    async with met(limits=Limits(calls=100_000)) as pair:
        draw, brings = random.Random(0), question(WHOLE_BYTES)

        async def sometime(asked: Message) -> Message:
            await asyncio.sleep(draw.uniform(0, 0.002))
            return answer(WHOLE_BYTES)

        pair.bob.answers = sometime
        pair.doors.came = lambda way, frames: pair.doors.ways.append(way)

        async def many(times: int) -> int:
            cut = 0
            for _ in range(times):
                pair.ada._unary_history.learn(pair.at, brings, answer(1))
                try:
                    async with asyncio.timeout(draw.uniform(0, 0.004)):
                        await pair.ask(brings)
                except TimeoutError:
                    cut += 1
            return cut

        await many(300)
        process = psutil.Process()
        before = process.memory_info().rss
        assert await many(1000) > 200
        assert set(pair.doors.ways[1:]) == {"unary"}
        assert process.memory_info().rss - before < 6 * MIB


async def test_a_unary_call_to_nobody_leaves_no_cycles() -> None:
    async with GrpcTransport(timing=brisk()) as ada:
        with few_cycles():
            for _ in range(20):
                at = nobody()
                ada._unary_history.learn(at, question(), answer(1))
                try:
                    await ada.exchange(at, question())
                except PeerUnreachable:
                    assert not ada._unary_history.expected(at, question())
                    continue
                pytest.fail("somebody is there")


async def test_a_provider_that_leaves_is_unreachable_and_reached_again_when_it_is_back(doors: Doors) -> None:
    async with GrpcTransport(timing=brisk()) as ada:
        async with GrpcTransport().serving(Bob()) as at:
            for _ in range(2):
                await ada.exchange(at, question())
        with pytest.raises(PeerUnreachable):
            await ada.exchange(at, question())
        async with GrpcTransport(at).serving(Bob()):
            for _ in range(2):
                await ada.exchange(at, question())
    assert doors.ways == ["stream", "unary", "stream", "unary"]


# ---------------------------------------------------------------- limits, groups, bad networks


async def test_unary_exchanges_count_as_the_others_do(met: Met) -> None:
    for limits, sentence in (
        (Limits(exchanges_per_peer=1), "1 exchanges with you are under way"),
        (Limits(exchanges=1), "1 exchanges are under way"),
    ):
        async with met(limits=limits) as pair:
            started, let = asyncio.Event(), asyncio.Event()

            async def slowly(asked: Message, started: asyncio.Event = started, let: asyncio.Event = let) -> Message:
                started.set()
                await let.wait()
                return answer(1)

            pair.bob.answers = slowly
            async with asyncio.TaskGroup() as group:
                first = group.create_task(pair.ask())
                await started.wait()
                for way in ("unary", "stream"):
                    refused = await pair.fails(PeerRefused, sentence)
                    assert isinstance(refused, PeerRefused)
                    assert refused.reason is RefusalReason.BUSY
                    assert pair.doors.ways[-1] == way
                let.set()
            assert first.result()
            assert await pair.ask()
        pair.doors.ways.clear()
        pair.doors.dispatchers.clear()
        pair.doors.ended = 0


async def test_within_a_group_unary_calls_are_made_too_and_a_peer_that_is_shut_out_is_refused_so(doors: Doors) -> None:
    async with guest("amber") as amber, guest("birch", LAB, amber) as birch:
        await meet(amber, birch)
        for _ in range(2):
            await birch.ask(amber)
        assert doors.ways == ["stream", "unary"]
        assert birch.passport is not None
        amber.slow = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            under_way = group.create_task(refusal(birch.ask(amber)))
            await until(lambda: doors.ways == ["stream", "unary", "unary"] and amber.asked == 3)
            trust = amber.membership._trust
            assert trust is not None
            trust.learn(revoked(LAB, certificates=[birch.passport.fingerprint]), "admin")
        assert under_way.result() in (RefusalReason.REVOKED, None), "what goes on with it ends"
        await until(lambda: doors.at_rest)
        birch.transport._unary_history.learn(amber.address, birch.question(), answer(1))
        assert await refusal(birch.ask(amber)) in (RefusalReason.REVOKED, None)
        assert amber.asked == 3


async def refusal(asking: Awaitable[object]) -> RefusalReason | None:
    """None: it is not even reached."""
    try:
        await asking
    except PeerRefused as refused:
        return refused.reason
    except PeerUnreachable:
        return None
    raise AssertionError("it was answered")


async def test_in_a_group_too_an_answer_is_for_the_certificate_that_has_asked(doors: Doors) -> None:
    async with guest("amber") as amber, guest("birch", LAB, amber) as birch:
        await meet(amber, birch)
        await birch.ask(amber)

        async def at_length(question: Message, caller: Caller) -> Message:
            amber.asked += 1
            return answer(LONG)

        amber.answer = at_length  # type: ignore[method-assign]
        got = await birch.ask(amber)
        assert body_of(got) == body_of(answer(LONG))
        assert amber.asked == 2
    assert doors.ways == ["stream", "unary", "stream"]


async def test_a_bad_network_carries_unary_exchanges_as_such(doors: Doors) -> None:
    bob = Bob()
    async with FaultyRelays(GrpcTransport(), NONE).serving(bob) as at, GrpcTransport(timing=brisk()) as ada:
        for given in (answer(10), answer(20), answer(LONG)):
            bob.gives = given
            assert body_of((await ada.exchange(at, question()))[0]) == body_of(given)
    assert doors.ways == ["stream", "unary", "unary", "stream"]
    assert len(bob.asked) == 3


# ---------------------------------------------------------------- what a stream is answered


@pytest.mark.parametrize("minor", [0, 7])
async def test_a_short_answer_to_a_stream_is_one_frame_too_whatever_minor_version_asks(met: Met, minor: int) -> None:
    async with met() as pair, channel_to(pair.at) as channel:
        exchange: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(EXCHANGE)
        call = exchange()
        asked = question()
        asked.header.protocol.minor = minor
        await call.write(serialize(pb.Frame(header=asked.header)))
        await call.done_writing()
        (frame,) = [data async for data in call]
    assert pair.doors.ways == ["stream", "stream"]
    assert pb.Frame.FromString(frame).whole == body_of(answer(100))


# ---------------------------------------------------------------- what is remembered

PLACES = [Address("10.0.0.1", port) for port in (1, 2, 3)]


def kind_of(place: Address, select: bytes, brings: int) -> tuple[Address, Message]:
    header = pb.Header(protocol=PROTO, query=pb.Query(want="params", select=select), body_bytes=brings)
    return place, Message(header)


def told(size: int) -> Message:
    return Message(pb.Header(protocol=PROTO, body_bytes=size))


SHORT = told(1)
STEPS = st.tuples(
    st.booleans(),
    st.builds(
        kind_of, st.sampled_from(PLACES), st.sampled_from([b"a", b"b"]), st.sampled_from([0, 0, WHOLE_BYTES, LONG])
    ),
    st.sampled_from([SHORT] * 6 + [told(WHOLE_BYTES), told(LONG), None]),
)


@settings(max_examples=200)
@given(st.lists(STEPS, max_size=60))
def test_unary_history_is_a_bounded_list_with_the_last_asked_at_its_end(steps: list[Any]) -> None:
    history, model = UnaryHistory(4), list[tuple[Address, bytes]]()
    for asks, (to, asked), got in steps:
        kind = (to, asked.header.query.select)
        if asks:
            short = kind in model and asked.header.body_bytes <= WHOLE_BYTES
            if short:
                model.remove(kind)
                model.append(kind)
            assert history.expected(to, asked) is short
        else:
            history.learn(to, asked, got)
            if kind in model:
                model.remove(kind)
            if got is not None and got.header.body_bytes <= WHOLE_BYTES:
                model.append(kind)
            model = model[-4:]
        hashed = [(place, xxhash.xxh3_128_digest(select)) for place, select in model]
        assert [(place, select) for place, *_, select in history._short] == hashed


def test_unary_history_forgets_the_least_recently_asked_of_thousands() -> None:
    history = UnaryHistory()
    for number in range(UnaryHistory.MOST):
        history.learn(*kind_of(PLACES[0], b"%d" % number, 0), SHORT)
    assert history.expected(*kind_of(PLACES[0], b"0", 0))
    for number in (-1, -2):
        history.learn(*kind_of(PLACES[0], b"%d" % number, 0), SHORT)
    assert history.expected(*kind_of(PLACES[0], b"0", 0))
    for gone in (b"1", b"2"):
        assert not history.expected(*kind_of(PLACES[0], gone, 0))
    assert history.expected(*kind_of(PLACES[0], b"3", 0))
    assert len(history._short) == UnaryHistory.MOST
