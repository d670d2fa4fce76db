"""Both ends of an exchange as state machines: any frames in any order, any cut, end or silence, under a still clock.

A model says which end must come; whatever comes, nothing stays held and nothing stays counted."""

import asyncio
from collections import deque
from typing import Any

import xxhash
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from peerlearn.config import Limits, Timing
from peerlearn.errors import KnowledgeError, PeerlearnError, PeerRefused, PeerUnreachable, RefusalReason, WireError
from peerlearn.transport.base import Caller, Traffic
from peerlearn.transport.exchange.dispatcher import Dispatcher, LinkEstimates
from peerlearn.transport.exchange.protocol import ask, refusal_frame
from peerlearn.types import PROTOCOL
from peerlearn.wire.compress import LinkEstimate
from peerlearn.wire.frames import Block, Message, parse, serialize
from peerlearn.wire.partial_message import PartialMessage
from peerlearn.wire.v1 import fabric_pb2 as pb

TIMING = Timing(base=2.0, stall=1.0)
LIMITS = Limits(body_bytes=1000, held_bytes=1500, exchanges=1)
SIZES = st.sampled_from([0, 1, 60, 400])
SECONDS = st.sampled_from([0.31, 0.73, 1.17, 2.39])  # of which no sum is a deadline
BLOCKS = st.sampled_from([0, 0, 1, 60, 401])  # 0: all that is missing
PROTO = pb.Protocol(major=PROTOCOL[0], minor=PROTOCOL[1])


class StillLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.moment = 1000.0

    def time(self) -> float:
        return self.moment

    def settle(self) -> None:
        """Until nothing can go on without a frame or more time."""
        for _ in range(30):
            self.call_soon(self.stop)
            self.run_forever()

    def passes(self, seconds: float) -> None:
        """In small steps, so that what is due first happens first."""
        for _ in range(8):
            self.moment += seconds / 8
            self.settle()


class Script:
    """Our end of a call: what the other one says is put in by the test; what we say is kept."""

    def __init__(self) -> None:
        self.coming: deque[bytes | PeerUnreachable | None] = deque()
        self.said: list[bytes] = []
        self.room = True
        self.dones = 0
        self._there = asyncio.Event()

    def put(self, data: bytes | PeerUnreachable | None) -> None:
        self.coming.append(data)
        self._there.set()

    async def read(self) -> bytes | None:
        while not self.coming:
            self._there.clear()
            await self._there.wait()
        data = self.coming[0]
        if isinstance(data, bytes):  # an end stays
            self.coming.popleft()
        if isinstance(data, PeerUnreachable):
            raise data
        return data

    async def write(self, data: bytes) -> None:
        if not self.room:
            await asyncio.Event().wait()
        self.said.append(data)

    async def done(self) -> None:
        self.dones += 1


def loaded(header: pb.Header, nbytes: int) -> Message:
    if not nbytes:
        return Message(header)
    header.knowledge.params.architecture = "a"
    header.tensors.add(name="w", dtype="uint8", shape=[nbytes], stored=nbytes)
    header.body_bytes = nbytes
    return Message(header, (memoryview(pattern(nbytes)),))


def pattern(nbytes: int) -> bytes:
    """Bytes that no codec makes smaller."""
    return b"".join(xxhash.xxh3_64_digest(bytes((n % 256, n // 256))) for n in range(nbytes // 8 + 1))[:nbytes]


def question(nbytes: int, sender: str = "ada") -> Message:
    return loaded(pb.Header(protocol=PROTO, sender=sender, query=pb.Query(want="params")), nbytes)


class Talk(RuleBasedStateMachine):
    """What both ends have in common: the frames of one message come, or something else does.

    The model of what is being received: `wants` is "header", then the bytes of body to come, then "trailer", then
    "end"; None once it can come to no good, and `over` once our end must have ended. `deadline`: for what is next.
    """

    other = PeerUnreachable("other", "the connection broke")

    def start(self) -> None:
        if not hasattr(self, "loop"):
            self.loop = StillLoop()
        self.loop.run_until_complete(self._make_pipe())
        self.wants: str | int | None = "header"
        self.size = self.at = 0
        self.body = b""
        self.over = False
        self.deadline = self.loop.moment + TIMING.base
        self.end = float("inf")

    async def _make_pipe(self) -> None:
        self.pipe = Script()

    def run(self, work: Any) -> None:
        self.task: asyncio.Task[Any] = self.loop.create_task(work)
        self.loop.settle()

    def put(self, data: bytes | PeerUnreachable | None) -> None:
        self.pipe.put(data)
        self.loop.settle()

    def next(self, nbytes: int) -> bytes:
        """Of the body that is due, or bytes of nobody's."""
        return pattern(self.size)[len(self.body) :][: nbytes or self.size] or b"?" * (nbytes or 1)

    def begin(self, nbytes: int) -> None:
        self.end = self.loop.moment + TIMING.budget(nbytes)
        self.heard()

    def heard(self) -> None:
        self.deadline = min(self.loop.moment + TIMING.stall, self.end)

    def take_block(self, data: bytes) -> bool:
        """Whether a block fits here."""
        if not isinstance(self.wants, int) or len(data) > self.wants:
            return False
        self.body += data
        self.wants = self.wants - len(data) or "trailer"
        self.heard()
        return True

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            if hasattr(self, "task"):
                self.put(self.other)
                self.loop.passes(2 * TIMING.budget(LIMITS.body_bytes))
                assert self.task.done(), "it hangs"
                self.task.exception()
                self.gone()
            self.loop.close()

    def gone(self) -> None: ...


class Bob:
    """Answers with as many bytes as the question's version names."""

    async def introduce(self, introduction: pb.Introduction, caller: Caller) -> pb.Introduction:
        return pb.Introduction()

    async def told(self, request: pb.WatchRequest, caller: Caller, notices: Any) -> None:
        raise AssertionError("nobody watches here who tells")

    def watch(self, request: pb.WatchRequest, caller: Caller) -> Any:
        raise NotImplementedError

    async def admit(self, header: pb.Header, caller: Caller) -> Caller:
        if header.sender == "stranger":
            raise PeerRefused("bob", RefusalReason.UNKNOWN_PEER, "introduce yourself first")
        return caller

    async def answer(self, asked: Message, caller: Caller) -> Message:
        self.asked = asked
        if asked.header.sender == "unfit":
            raise KnowledgeError("another shape")
        return loaded(pb.Header(protocol=PROTO, sender="bob"), asked.header.query.at)


class Provider(Talk):
    """`reply`, by the dispatcher: an answer, a refusal, or PeerUnreachable."""

    @initialize(room=st.booleans(), gives=SIZES)
    def begin_call(self, room: bool, gives: int) -> None:
        self.dispatcher = Dispatcher(bob := Bob(), TIMING, LIMITS, LinkEstimates())
        self.bob = bob
        self.call(room, gives)

    @precondition(lambda self: self.over)
    @rule(room=st.booleans(), gives=SIZES)
    def call(self, room: bool, gives: int) -> None:
        """The dispatcher serves one exchange at a time here: if it takes the next one, the last has left."""
        self.start()
        self.pipe.room = room
        self.gives = gives
        self.outcome = ""
        self.holds = 0
        self.run(self.dispatcher.exchange(self.pipe, Caller("127.0.0.1")))

    # ---- what the consumer does

    @precondition(lambda self: not self.over)
    @rule(brings=SIZES, sender=st.sampled_from(["ada", "stranger", "unfit"]))
    def header(self, brings: int, sender: str) -> None:
        asked = question(brings, sender)
        asked.header.query.at = self.gives
        self.put(serialize(pb.Frame(header=asked.header)))
        if self.drains:
            self.heard()
        elif self.wants != "header" or sender == "stranger":
            self.refused()
        elif brings:
            self.sender, self.size, self.holds = sender, brings, brings
            self.wants = brings
            self.begin(brings)
            self.writes()
        else:
            self.sender = sender
            self.whole()

    @precondition(lambda self: not self.over)
    @rule(nbytes=BLOCKS)
    def block(self, nbytes: int) -> None:
        data = self.next(nbytes)
        self.put(serialize(Block((memoryview(data),))))
        if self.drains:
            self.heard()
        elif not self.take_block(data):
            self.refused()

    @precondition(lambda self: not self.over)
    @rule(wrong=st.booleans())
    def trailer(self, wrong: bool) -> None:
        digest = xxhash.xxh3_64_intdigest(self.body) ^ wrong
        self.put(serialize(pb.Frame(trailer=pb.Trailer(checksum=digest))))
        if self.drains:
            self.heard()
        elif self.wants == "trailer" and not wrong:
            self.whole()
        else:
            self.refused()

    @precondition(lambda self: not self.over)
    @rule(data=st.sampled_from([b"", b"\xff" * 20, b"\x12\x00", b"\x0a\xff\xff\xff\xff\x7f", b"\x22\x02\x08\x01"]))
    def nonsense(self, data: bytes) -> None:
        self.put(data)
        if self.drains:
            self.heard()
        else:
            self.refused()

    @precondition(lambda self: not self.over)
    @rule()
    def ends(self) -> None:
        self.put(None)
        if not self.drains:
            self.refused()
        if self.outcome == "refusal":
            self.over = True

    @precondition(lambda self: not self.over)
    @rule()
    def breaks(self) -> None:
        self.put(self.other)
        if not self.drains:
            self.outcome = "unreachable"
        self.over = True

    @precondition(lambda self: not self.over)
    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.loop.passes(seconds)
        if self.loop.moment > self.deadline:
            if not self.drains:
                self.outcome = "unreachable"
            self.over = True

    @precondition(lambda self: not self.over)
    @rule(brings=SIZES)
    def as_it_should(self, brings: int) -> None:
        """What is waited for: leads deep into an exchange."""
        if self.wants == "header":
            self.header(brings, "ada")
        elif self.wants == "trailer":
            self.trailer(wrong=False)
        elif self.wants is None:
            self.ends()
        else:
            self.block(0)

    # ---- the model

    @property
    def drains(self) -> bool:
        """Our end has refused and lets the consumer finish, unheard."""
        return self.outcome == "refusal"

    def refused(self) -> None:
        self.wants = None
        self.outcome = "refusal"
        self.begin(0)
        self.writes()

    def whole(self) -> None:
        if self.sender == "unfit":
            self.refused()
            return
        self.wants = "end"
        self.outcome, self.over = "answer", True
        if not self.pipe.room:
            self.begin(self.gives)
            self.writes()

    def writes(self) -> None:
        """A frame of ours must go out now: where nobody takes it, that is a stall, and nothing else is heard."""
        if not self.pipe.room:
            self.loop.passes(TIMING.stall + 0.1)
            self.outcome, self.over = "unreachable", True

    @invariant()
    def it_is_where_the_model_says(self) -> None:
        if not hasattr(self, "task"):
            return
        assert self.task.done() == self.over, (self.outcome, self.wants)
        assert self.dispatcher.under_way == ((0, 0) if self.over else (1, self.holds))
        if not self.over:
            return
        error = self.task.exception()
        if self.outcome == "unreachable":
            assert isinstance(error, PeerUnreachable)
            return
        assert error is None, error
        frames = [parse(data, LIMITS) for data in self.pipe.said]
        heads = [frame.header for frame in frames if isinstance(frame, pb.Frame) and frame.HasField("header")]
        (head,) = heads
        assert head.HasField("refusal") == (self.outcome == "refusal")
        if self.outcome == "refusal":
            assert head.refusal.detail
        else:
            assert b"".join(bytes(part) for part in self.bob.asked.body) == self.body
            assert b"".join(frame.whole for frame in frames if isinstance(frame, pb.Frame)) == pattern(self.gives)
            assert not any(isinstance(frame, Block) for frame in frames), "the body comes once, beside its header"

    def gone(self) -> None:
        assert self.dispatcher.under_way == (0, 0)


class Consumer(Talk):
    """`ask`: the answer as it was sent, or PeerUnreachable, PeerRefused, WireError."""

    @initialize(brings=SIZES, gives=SIZES)
    def begin_call(self, brings: int, gives: int) -> None:
        self.call(brings, gives)

    @precondition(lambda self: self.over)
    @rule(brings=SIZES, gives=SIZES)
    def call(self, brings: int, gives: int) -> None:
        self.start()
        self.asked = question(brings)
        self.answer = loaded(pb.Header(protocol=PROTO, sender="bob"), gives)
        self.expected: type[PeerlearnError] | None = None
        self.proceeded = self.refusal = False
        link = LinkEstimate(loopback=True)
        self.run(ask(self.pipe, self.asked, PartialMessage(), peer="bob", timing=TIMING, limits=LIMITS, link=link))

    @precondition(lambda self: not self.over)
    @rule()
    def proceed(self) -> None:
        self.put(serialize(pb.Frame(proceed=pb.Proceed())))
        if self.wants != "header" or self.proceeded:
            self.fails(WireError)
            return
        self.proceeded = True
        self.deadline = self.loop.moment + TIMING.base
        sent = b"".join(
            bytes(part) for data in self.pipe.said if isinstance(b := parse(data), Block) for part in b.parts
        )
        assert sent == b"".join(bytes(part) for part in self.asked.body), "all that was agreed to is sent, and once"

    @precondition(lambda self: not self.over)
    @rule(refused=st.booleans(), beside=st.sampled_from([0, 0, 1, 60, 400]))
    def header(self, refused: bool, beside: int) -> None:
        """`beside`: so many bytes of body come in the same frame."""
        frame = refusal_frame(RefusalReason.BUSY, "later") if refused else pb.Frame(header=self.answer.header)
        size = frame.header.body_bytes
        frame.whole = pattern(size)[:beside] + b"?" * (beside - size)
        self.put(serialize(frame))
        if self.wants != "header" or beside not in (0, size):
            self.fails(WireError)
            return
        self.refusal = refused
        self.size = size
        self.begin(self.size)
        if beside:
            self.body, self.wants = pattern(size), "end"
        else:
            self.wants = self.size or "end"

    @precondition(lambda self: not self.over)
    @rule(nbytes=BLOCKS)
    def block(self, nbytes: int) -> None:
        data = self.next(nbytes)
        self.put(serialize(Block((memoryview(data),))))
        if not self.take_block(data):
            self.fails(WireError)

    @precondition(lambda self: not self.over)
    @rule(wrong=st.booleans())
    def trailer(self, wrong: bool) -> None:
        digest = xxhash.xxh3_64_intdigest(self.body) ^ wrong
        self.put(serialize(pb.Frame(trailer=pb.Trailer(checksum=digest))))
        if self.wants == "trailer" and not wrong:
            self.wants = "end"
            self.heard()
        else:
            self.fails(WireError)

    @precondition(lambda self: not self.over)
    @rule(data=st.sampled_from([b"", b"\xff" * 20, b"\x0a\xff\xff\xff\xff\x7f", b"\x22\x02\x08\x01"]))
    def nonsense(self, data: bytes) -> None:
        self.put(data)
        self.fails(WireError)

    @precondition(lambda self: not self.over)
    @rule()
    def ends(self) -> None:
        self.put(None)
        if self.wants != "end":
            self.fails(WireError)
        elif self.refusal:
            self.fails(PeerRefused)
        else:
            self.over = True

    @precondition(lambda self: not self.over)
    @rule()
    def breaks(self) -> None:
        self.put(self.other)
        self.fails(PeerUnreachable)

    @precondition(lambda self: not self.over)
    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.loop.passes(seconds)
        if self.loop.moment > self.deadline:
            self.fails(PeerUnreachable)

    @precondition(lambda self: not self.over)
    @rule()
    def as_it_should(self) -> None:
        """What is waited for: leads deep into an exchange."""
        if self.wants == "header":
            self.header(refused=False, beside=0)
        elif self.wants == "trailer":
            self.trailer(wrong=False)
        elif self.wants == "end":
            self.ends()
        else:
            self.block(0)

    def fails(self, error: type[PeerlearnError]) -> None:
        self.expected, self.over = error, True

    @invariant()
    def it_is_where_the_model_says(self) -> None:
        if not hasattr(self, "task"):
            return
        assert self.task.done() == self.over, (self.wants, self.expected)
        if not self.over:
            return
        error = self.task.exception()
        if self.expected is not None:
            assert isinstance(error, self.expected), repr(error)
            assert "\n" not in str(error)
            return
        assert error is None, repr(error)
        got: tuple[Message, Traffic] = self.task.result()
        assert got[0].header == self.answer.header
        assert b"".join(bytes(part) for part in got[0].body) == b"".join(bytes(part) for part in self.answer.body)


Provider.TestCase.settings = settings(max_examples=80, stateful_step_count=10, deadline=None)
Consumer.TestCase.settings = settings(max_examples=80, stateful_step_count=10, deadline=None)
TestProvider = Provider.TestCase
TestConsumer = Consumer.TestCase


def test_the_machines_reach_a_whole_exchange() -> None:
    """By hand, so that a model that refuses everything would be noticed."""
    for gives in (0, 400):
        consumer = Consumer()
        consumer.begin_call(60, gives)
        consumer.proceed()
        consumer.header(refused=False, beside=0)
        if gives:
            consumer.block(340)
            consumer.time_passes(0.73)
            consumer.block(60)
            consumer.trailer(wrong=False)
        consumer.ends()
        consumer.it_is_where_the_model_says()
        assert consumer.expected is None
        consumer.teardown()
        provider = Provider()
        provider.begin_call(room=True, gives=gives)
        provider.header(400, "ada")
        provider.it_is_where_the_model_says()
        assert provider.dispatcher.under_way == (1, 400)
        provider.block(400)
        provider.trailer(wrong=False)
        provider.it_is_where_the_model_says()
        assert provider.outcome == "answer"
        provider.teardown()


def test_a_short_answer_comes_in_one_frame() -> None:
    consumer = Consumer()
    consumer.begin_call(0, 400)
    consumer.header(refused=False, beside=400)
    consumer.ends()
    consumer.it_is_where_the_model_says()
    assert consumer.expected is None
    consumer.teardown()


def test_a_body_of_another_checksum_is_no_answer() -> None:
    consumer = Consumer()
    consumer.begin_call(0, 400)
    consumer.header(refused=False, beside=0)
    consumer.block(0)
    consumer.trailer(wrong=True)
    consumer.it_is_where_the_model_says()
    assert consumer.expected is WireError
    consumer.teardown()
