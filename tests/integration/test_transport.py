"""One suite for both transports: what memory promises, gRPC keeps, and the other way round. Then what only gRPC has."""

import asyncio
import datetime
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from numpy.typing import NDArray

from peerlearn.config import MIB, Limits, Timing, brisk
from peerlearn.errors import (
    ForeignProtocol,
    KnowledgeError,
    NetworkError,
    PeerRefused,
    PeerUnreachable,
    RefusalReason,
    Truncated,
    WireError,
)
from peerlearn.transport.base import Caller, Transport
from peerlearn.transport.grpc.transport import GrpcTransport
from peerlearn.transport.memory.transport import MemoryNetwork
from peerlearn.tuning.malloc import tune_allocator
from peerlearn.types import PROTOCOL, Address
from peerlearn.wire.compress import GIGABIT, LinkEstimate, Packer
from peerlearn.wire.frames import Message, blocks, serialize
from peerlearn.wire.v1 import fabric_pb2 as pb
from tests.support.patience import SOON, timed

PROTO = pb.Protocol(major=PROTOCOL[0], minor=PROTOCOL[1])
FABRIC = "peerlearn.wire.v1.Fabric"
QUICK = Timing(base=0.6, stall=0.3)

Make = Callable[..., Transport]


@pytest.fixture(params=["memory", "grpc"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes transports that reach one another: make(timing=, limits=)."""
    return GrpcTransport if request.param == "grpc" else MemoryNetwork().transport


def question(nbytes: int = 0, *, sender: str = "ada", array: NDArray[np.uint8] | None = None) -> Message:
    header = pb.Header(protocol=PROTO, sender=sender, query=pb.Query(want="params"))
    return loaded(header, nbytes, array)


def answer(nbytes: int = 0, array: NDArray[np.uint8] | None = None) -> Message:
    return loaded(pb.Header(protocol=PROTO, sender="bob"), nbytes, array)


def loaded(header: pb.Header, nbytes: int, array: NDArray[np.uint8] | None = None) -> Message:
    header.knowledge.params.architecture = "a"
    body = np.random.default_rng(nbytes).integers(0, 256, nbytes, np.uint8) if array is None else array
    if not len(body):
        return Message(header)
    header.tensors.add(name="w", dtype="uint8", shape=[len(body)], stored=len(body))
    header.body_bytes = len(body)
    return Message(header, (body.data,))


def introduction(group: str = "") -> pb.Introduction:
    return pb.Introduction(protocol=PROTO, group_tag=group)


async def echo(asked: Message) -> Message:
    header = pb.Header()
    header.CopyFrom(asked.header)
    header.ClearField("query")
    return Message(header, asked.body)


@dataclass
class Service:
    """A peer in five lines: says what it was told to say."""

    answers: Callable[[Message], Awaitable[Message]] = echo
    admits: Callable[[pb.Header], None] = lambda header: None

    async def introduce(self, introduction: pb.Introduction, caller: Caller) -> pb.Introduction:
        if introduction.group_tag == "strangers":
            raise PeerRefused("bob", RefusalReason.GROUP, "another group: überall")
        return pb.Introduction(protocol=PROTO, observed=caller.host, known=[pb.Acquaintance(id="eve")])

    async def told(self, request: pb.WatchRequest, caller: Caller, notices: Any) -> None:
        raise AssertionError("nobody watches here who tells")

    async def watch(self, request: pb.WatchRequest, caller: Caller) -> AsyncGenerator[pb.Notice, None]:
        if request.id == "stranger":
            raise PeerRefused("bob", RefusalReason.UNKNOWN_PEER, "introduce yourself first")
        for count in range(3):
            yield pb.Notice(beat=pb.Beat(count=count))
        yield pb.Notice(goodbye=pb.Goodbye(reason="done"))

    async def admit(self, header: pb.Header, caller: Caller) -> None:
        self.admits(header)

    async def answer(self, asked: Message, caller: Caller) -> Message:
        return await self.answers(asked)


def body_of(message: Message) -> bytes:
    return b"".join(message.body)


async def forever(asked: Message) -> Message:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


# ---------------------------------------------------------------- small calls


async def test_introduce(make: Make) -> None:
    a, b = make(), make()
    async with a.serving(Service()) as at, b.serving(Service()):
        reply = await b.introduce(at, introduction())
    assert reply.observed in ("127.0.0.1", "memory")
    assert [other.id for other in reply.known] == ["eve"]


async def test_a_refused_introduction_says_why(make: Make) -> None:
    a, b = make(), make()
    async with a.serving(Service()) as at, b.serving(Service()):
        with pytest.raises(PeerRefused, match="another group: überall") as caught:
            await b.introduce(at, introduction("strangers"))
        assert (caught.value.reason, caught.value.peer) == (RefusalReason.GROUP, str(at))
        assert (await b.introduce(at, introduction())).known


async def test_another_protocol_is_refused_with_both_versions(make: Make) -> None:
    a, b = make(), make()
    foreign = pb.Protocol(major=2, minor=5)
    async with a.serving(Service()) as at, b.serving(Service()):
        with pytest.raises(PeerRefused, match=r"2\.5.*1\.2") as caught:
            await b.introduce(at, pb.Introduction(protocol=foreign))
        assert caught.value.reason is RefusalReason.PROTOCOL
        with pytest.raises(PeerRefused, match=r"2\.5.*1\.2") as caught:
            await b.exchange(at, Message(pb.Header(protocol=foreign)))
        assert caught.value.reason is RefusalReason.PROTOCOL


async def test_an_introduction_beyond_the_limits_is_refused(make: Make) -> None:
    a, b = make(limits=Limits(card_bytes=100, acquaintances=1)), make()
    async with a.serving(Service()) as at, b.serving(Service()):
        with pytest.raises(PeerRefused) as caught:
            await b.introduce(at, introduction("x" * 2000))
    assert caught.value.reason is RefusalReason.LIMITS


async def test_watch_gives_notices_in_order_and_ends(make: Make) -> None:
    a, b = make(), make()
    async with a.serving(Service()) as at, b.serving(Service()):
        notices = [notice async for notice in b.watch(at, pb.WatchRequest(id="ada"))]
    assert [notice.WhichOneof("body") for notice in notices] == ["beat", "beat", "beat", "goodbye"]
    assert [notice.beat.count for notice in notices[:3]] == [0, 1, 2]


async def test_a_refused_watch_says_why(make: Make) -> None:
    a, b = make(), make()
    async with a.serving(Service()) as at, b.serving(Service()):
        with pytest.raises(PeerRefused, match="introduce yourself") as caught:
            await anext(b.watch(at, pb.WatchRequest(id="stranger")))
    assert caught.value.reason is RefusalReason.UNKNOWN_PEER


class Endless(Service):
    """Watched until the watcher leaves; knows when it did."""

    def __init__(self) -> None:
        super().__init__()
        self.left = asyncio.Event()

    async def told(self, request: pb.WatchRequest, caller: Caller, notices: Any) -> None:
        raise AssertionError("nobody watches here who tells")

    async def watch(self, request: pb.WatchRequest, caller: Caller) -> AsyncGenerator[pb.Notice, None]:
        try:
            yield pb.Notice(version=1)
            await asyncio.Event().wait()
        finally:
            self.left.set()


async def test_a_watcher_that_leaves_ends_the_stream_at_the_other_side(make: Make) -> None:
    a, b, service = make(limits=Limits(watches=1)), make(), Endless()
    async with a.serving(service) as at, b.serving(Service()):
        async with aclosing(b.watch(at, pb.WatchRequest())) as notices:
            assert (await anext(notices)).version == 1
            with pytest.raises(PeerRefused) as caught:
                await anext(b.watch(at, pb.WatchRequest()))
            assert caught.value.reason is RefusalReason.BUSY
        await asyncio.wait_for(service.left.wait(), SOON)


async def test_a_server_that_leaves_ends_its_watchers_quickly(make: Make) -> None:
    a, b = make(), make()
    with timed() as watch:
        async with b.serving(Service()):
            async with a.serving(Endless()) as at:
                notices = b.watch(at, pb.WatchRequest())
                await anext(notices)
            with pytest.raises(PeerUnreachable):
                await anext(notices)
    assert watch.seconds < 3


# ---------------------------------------------------------------- exchanges


@pytest.mark.parametrize("brought", [0, 1, 3 * MIB + 5])
@pytest.mark.parametrize("given", [0, 1, 3 * MIB + 5])
async def test_bodies_travel_in_both_directions(make: Make, brought: int, given: int) -> None:
    arrived: list[Message] = []

    async def answers(asked: Message) -> Message:
        arrived.append(asked)
        return answer(given)

    a, b = make(), make()
    asked = question(brought)
    async with a.serving(Service(answers)) as at, b.serving(Service()):
        got, traffic = await b.exchange(at, asked)
    assert body_of(arrived[0]) == body_of(asked)
    assert arrived[0].header == asked.header
    assert body_of(got) == body_of(answer(given))
    assert traffic.body_bytes == given
    assert 0 <= traffic.received_bytes - given < 500
    assert 0 <= traffic.sent_bytes - brought < 500
    assert traffic.seconds > 0


async def test_both_transports_count_the_same_bytes() -> None:
    counted = set()
    network = MemoryNetwork()
    for a, b in ((GrpcTransport(), GrpcTransport()), (network.transport(), network.transport())):
        async with a.serving(Service()) as at, b.serving(Service()):
            _, traffic = await b.exchange(at, question(2 * MIB + 1))
            counted.add((traffic.sent_bytes, traffic.received_bytes, traffic.body_bytes))
    assert len(counted) == 1


async def test_what_compresses_on_loopback_is_seen_in_the_traffic(make: Make) -> None:
    a, b = make(), make()
    async with a.serving(Service()) as at, b.serving(Service()):
        zeros = question(array=np.zeros(4 * MIB, np.uint8))
        got, traffic = await b.exchange(at, zeros)
    assert body_of(got) == bytes(4 * MIB)
    assert traffic.codec == "lz4"
    assert max(traffic.received_bytes, traffic.sent_bytes) < 100_000


async def test_two_peers_that_ask_each_other_at_once_both_get_answers(make: Make) -> None:
    a, b = make(), make()
    async with a.serving(Service()) as at_a, b.serving(Service()) as at_b, asyncio.TaskGroup() as both:
        one = both.create_task(a.exchange(at_b, question(MIB)))
        two = both.create_task(b.exchange(at_a, question(MIB)))
    assert body_of(one.result()[0]) == body_of(two.result()[0]) == body_of(question(MIB))


async def test_a_question_is_refused_before_its_body_flows(make: Make) -> None:
    def refuse(header: pb.Header) -> None:
        raise PeerRefused("bob", RefusalReason.EXPOSURE, f"not for {header.sender}")

    a, b = make(), make()
    async with a.serving(Service(admits=refuse)) as at, b.serving(Service()):
        for size in (0, 64 * MIB):
            with pytest.raises(PeerRefused, match="not for ada") as caught:
                await b.exchange(at, question(array=np.empty(size, np.uint8)))
            assert caught.value.reason is RefusalReason.EXPOSURE
            assert caught.value.peer == str(at)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PeerRefused("bob", RefusalReason.VERSION, "no"), RefusalReason.VERSION),
        (KnowledgeError("another shape"), RefusalReason.UNFIT),
        (ForeignProtocol("another"), RefusalReason.PROTOCOL),
        (Truncated("half"), RefusalReason.OTHER),
    ],
)
async def test_errors_of_the_answer_are_told_as_refusals(make: Make, error: Exception, reason: RefusalReason) -> None:
    async def answers(asked: Message) -> Message:
        raise error

    a, b = make(), make()
    async with a.serving(Service(answers)) as at, b.serving(Service()):
        for size in (0, MIB):
            with pytest.raises(PeerRefused) as caught:
                await b.exchange(at, question(size))
            assert caught.value.reason is reason


async def test_more_than_the_provider_takes_is_refused_and_it_goes_on(make: Make) -> None:
    a, b = make(limits=Limits(body_bytes=MIB)), make()
    async with a.serving(Service()) as at, b.serving(Service()):
        with pytest.raises(PeerRefused, match="at most 1048576") as caught:
            await b.exchange(at, question(2 * MIB))
        assert caught.value.reason is RefusalReason.LIMITS
        assert body_of((await b.exchange(at, question(MIB)))[0]) == body_of(question(MIB))


async def test_more_than_the_consumer_takes_is_an_error_at_the_consumer(make: Make) -> None:
    async def answers(asked: Message) -> Message:
        return answer(2 * MIB)

    a, b = make(), make(limits=Limits(body_bytes=MIB))
    async with a.serving(Service(answers)) as at, b.serving(Service()):
        with pytest.raises(WireError, match="at most 1048576"):
            await b.exchange(at, question())


async def test_one_exchange_too_many_is_refused_as_busy(make: Make) -> None:
    started = asyncio.Event()

    async def slowly(asked: Message) -> Message:
        started.set()
        return await forever(asked)

    a, b = make(limits=Limits(exchanges=1)), make()
    async with a.serving(Service(slowly)) as at, b.serving(Service()), asyncio.TaskGroup() as group:
        first = group.create_task(b.exchange(at, question()))
        await started.wait()
        for size in (0, MIB):
            with pytest.raises(PeerRefused, match="try again") as caught:
                await b.exchange(at, question(size))
            assert caught.value.reason is RefusalReason.BUSY
        first.cancel()


async def test_a_cancelled_exchange_ends_at_both_sides(make: Make) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def answers(asked: Message) -> Message:
        started.set()
        try:
            return await forever(asked)
        finally:
            ended.set()

    a, b = make(limits=Limits(exchanges=1)), make()
    service = Service(answers)
    async with a.serving(service) as at, b.serving(Service()):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(b.exchange(at, question()))
            await started.wait()
            task.cancel()
        assert task.cancelled()
        await asyncio.wait_for(ended.wait(), SOON)
        service.answers = echo
        await asyncio.sleep(0)
        assert await b.exchange(at, question())


async def test_the_callers_own_error_comes_out_as_it_went_in(make: Make) -> None:
    with pytest.raises(ZeroDivisionError):
        async with make().serving(Service()):
            raise ZeroDivisionError


# ---------------------------------------------------------------- silence


async def test_nobody_there_is_told_at_once(make: Make) -> None:
    a, b = make(), make()
    async with a.serving(Service()) as at:
        pass
    async with b.serving(Service()):
        with timed() as watch:
            for _ in range(2):
                with pytest.raises(
                    PeerUnreachable, match=rf"^{at}: (no connection \(Connection refused|nobody serves)"
                ):
                    await b.exchange(at, question())
                with pytest.raises(PeerUnreachable):
                    await b.introduce(at, introduction())
                with pytest.raises(PeerUnreachable):
                    await anext(b.watch(at, pb.WatchRequest()))
    assert watch.seconds < 2


async def test_a_provider_that_never_answers_costs_one_base_window(make: Make) -> None:
    a, b = make(timing=QUICK), make(timing=QUICK)
    async with a.serving(Service(forever)) as at, b.serving(Service()):
        for size in (0, MIB):
            start = asyncio.get_running_loop().time()
            with timed() as watch, pytest.raises(PeerUnreachable, match=r"no answer within 0\.6 s"):
                await b.exchange(at, question(size))
            assert asyncio.get_running_loop().time() - start > 0.5
            assert watch.seconds < 2


async def test_a_provider_that_returns_is_reached_at_once(make: Make) -> None:
    a, b = make(), make()
    async with b.serving(Service()):
        async with a.serving(Service()) as at:
            await b.exchange(at, question())
        with pytest.raises(PeerUnreachable):
            await b.exchange(at, question())
        again = GrpcTransport(at) if isinstance(a, GrpcTransport) else a
        async with again.serving(Service()) as there:
            assert there == at
            await b.exchange(at, question())


async def test_a_cut_network_costs_a_window_and_heals() -> None:
    network = MemoryNetwork()
    a, b = network.transport(timing=QUICK), network.transport(timing=QUICK)
    async with a.serving(Service()) as at, b.serving(Service()):
        network.cut(at)
        for call in (b.exchange(at, question()), b.introduce(at, introduction())):
            with pytest.raises(PeerUnreachable, match=r"within 0\.6 s"):
                await call
        network.mend(at)
        assert await b.exchange(at, question())


async def test_a_network_cut_in_the_middle_of_an_answer_is_a_stall() -> None:
    network = MemoryNetwork()
    patient = Timing(base=30.0, stall=1.0)
    a, b = network.transport(timing=patient), network.transport(timing=patient)

    large = answer(64 * MIB)

    async def answers(asked: Message) -> Message:
        asyncio.get_running_loop().call_later(0.25, network.cut, at)  # 64 blocks, 8 under way, 0.1 s each: 0.8 s
        return large

    network.delay = 0.1
    async with a.serving(Service(answers)) as at, b.serving(Service()):
        with pytest.raises(PeerUnreachable, match=r"nothing more came after \d+ of 67108864 bytes"):
            await b.exchange(at, question())


async def test_delay_is_felt_per_message_not_per_frame() -> None:
    network = MemoryNetwork(delay=0.05)
    a, b = network.transport(), network.transport()
    async with a.serving(Service()) as at, b.serving(Service()):
        with timed() as watch:
            _, traffic = await b.exchange(at, question())
        assert traffic.seconds >= 0.1
    assert watch.seconds < 0.3


# ---------------------------------------------------------------- hostile peers, over gRPC


def raw(channel: grpc.aio.Channel) -> "grpc.aio.StreamStreamCall[bytes, bytes]":
    exchange: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(f"/{FABRIC}/Exchange")
    return exchange()


def frames_of(message: Message) -> list[bytes]:
    return [serialize(frame) for frame in blocks(message, Packer(LinkEstimate(loopback=True)))]


FRAMES = frames_of(question(MIB + 100))
FLIPPED = FRAMES[1][:50] + bytes([FRAMES[1][50] ^ 1]) + FRAMES[1][51:]
HUGE = pb.Frame(header=pb.Header(protocol=PROTO, body_bytes=1 << 50)).SerializeToString()
BOMB = pb.Frame(packed=pb.Packed(codec=pb.Packed.LZ4, raw_bytes=2**31, data=b"\x1f\x00" + b"\xff" * 1000))
HOSTILE = {
    "garbage": [b"\xff" * 100],
    "empty": [b""],
    "no header": FRAMES[1:],
    "two headers": [FRAMES[0], FRAMES[0]],
    "reordered": [FRAMES[0], FRAMES[2], FRAMES[1], FRAMES[3]],
    "truncated": FRAMES[:2],
    "no trailer": FRAMES[:3],
    "nothing": [],
    "flipped": [FRAMES[0], FLIPPED, *FRAMES[2:]],
    "oversized": [HUGE],
    "too much": [*FRAMES[:3], FRAMES[1]],
    "bomb": [FRAMES[0], BOMB.SerializeToString()],
    "flood": [b"\x0a\xc0\x84\x3d" + b"\x4a\x00" * 500_000],
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_frames_are_refused_and_the_server_goes_on(name: str) -> None:
    a, b = GrpcTransport(timing=brisk()), GrpcTransport()
    async with a.serving(Service()) as at, b.serving(Service()):
        async with grpc.aio.insecure_channel(str(at)) as channel:
            call = raw(channel)
            for data in HOSTILE[name]:
                await call.write(data)
            await call.done_writing()
            replies = []
            while isinstance(reply := await call.read(), bytes):
                replies.append(pb.Frame.FromString(reply))
            assert await call.code() is grpc.StatusCode.OK
        assert [frame.WhichOneof("body") for frame in replies][-1] == "header"
        assert replies[-1].header.refusal.reason in (RefusalReason.OTHER, RefusalReason.LIMITS)
        assert replies[-1].header.refusal.detail
        assert body_of((await b.exchange(at, question(MIB)))[0]) == body_of(question(MIB))


async def test_a_consumer_that_stalls_does_not_hold_its_place() -> None:
    a, b = GrpcTransport(timing=QUICK, limits=Limits(exchanges=1)), GrpcTransport()
    async with a.serving(Service()) as at, b.serving(Service()), grpc.aio.insecure_channel(str(at)) as channel:
        call = raw(channel)
        await call.write(FRAMES[0])
        await call.write(FRAMES[1])
        assert isinstance(await call.read(), bytes)  # proceed
        with pytest.raises(grpc.aio.AioRpcError, match="nothing more came after 1048576 of 1048676 bytes"):
            await call.read()
        assert await b.exchange(at, question())


async def test_a_frame_larger_than_the_transport_takes_is_refused() -> None:
    a, b = GrpcTransport(), GrpcTransport()
    async with a.serving(Service()) as at, b.serving(Service()), grpc.aio.insecure_channel(str(at)) as channel:
        call = raw(channel)
        await call.write(bytes(9 * MIB))
        assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await b.exchange(at, question())


class Liar:
    """A server that answers every exchange with the same bytes."""

    def __init__(self, frames: list[bytes], *, stay: bool = False) -> None:
        self._frames = frames
        self._stay = stay

    async def exchange(self, _: AsyncIterator[bytes], context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        await context.read()
        for data in self._frames:
            await context.write(data)
        if self._stay:
            await asyncio.Event().wait()

    async def ask(self, timing: Timing) -> Message:
        async with exchanging(self.exchange) as at, GrpcTransport(timing=timing) as transport:
            return (await transport.exchange(at, question()))[0]


@asynccontextmanager
async def exchanging(exchange: Callable[..., Any]) -> AsyncIterator[Address]:
    """A gRPC server that has this Exchange, and nothing of ours."""
    server = grpc.aio.server()
    calls: dict[str, grpc.RpcMethodHandler[Any, Any]]
    calls = {"Exchange": grpc.stream_stream_rpc_method_handler(exchange)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(FABRIC, calls),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield Address("127.0.0.1", port)
    finally:
        await server.stop(0)


ANSWER = frames_of(answer(MIB + 100))
LIES = {
    "garbage": [b"\xff" * 100],
    "nothing": [],
    "truncated": ANSWER[:2],
    "reordered": [ANSWER[0], ANSWER[2], ANSWER[1], ANSWER[3]],
    "flipped": [ANSWER[0], FLIPPED, *ANSWER[2:]],
    "more": [*ANSWER, ANSWER[0]],
    "oversized": [HUGE],
    "bomb": [ANSWER[0], BOMB.SerializeToString()],
    "huge frame": [bytes(9 * MIB)],
    "proceed twice": [pb.Frame(proceed=pb.Proceed()).SerializeToString()] * 2,
}


@pytest.mark.parametrize("name", LIES)
async def test_a_lying_provider_is_an_error_by_name(name: str) -> None:
    with pytest.raises(WireError):
        await Liar(LIES[name]).ask(brisk())


async def test_an_honest_raw_server_is_understood() -> None:
    assert body_of(await Liar(ANSWER).ask(brisk())) == body_of(answer(MIB + 100))


@pytest.mark.parametrize(("sent", "match"), [(0, "no answer"), (2, "after 1048576 of 1048676 bytes for 0.3 s")])
async def test_a_provider_that_stalls_costs_one_window(sent: int, match: str) -> None:
    with pytest.raises(PeerUnreachable, match=match):
        await Liar(ANSWER[:sent], stay=True).ask(QUICK)


async def test_something_else_that_speaks_grpc_is_no_peer() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with GrpcTransport() as transport:
        with pytest.raises(PeerUnreachable, match="not a peer"):
            await transport.exchange(Address("127.0.0.1", port), question())
    await server.stop(0)


async def test_a_port_that_accepts_and_says_nothing_costs_one_window() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with GrpcTransport(timing=QUICK) as transport:
            with pytest.raises(PeerUnreachable):
                await transport.exchange(Address(*silent.getsockname()), question())


# ---------------------------------------------------------------- gRPC as such


async def test_health_is_served() -> None:
    async with GrpcTransport().serving(Service()) as at, grpc.aio.insecure_channel(str(at)) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", FABRIC):
            status = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert status.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Check(health_pb2.HealthCheckRequest(service="nothing"))


async def test_reflection_tells_the_fabrics_own_descriptor() -> None:
    async with GrpcTransport().serving(Service()) as at, grpc.aio.insecure_channel(str(at)) as channel:
        stub: Any = reflection_pb2_grpc
        call = stub.ServerReflectionStub(channel).ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = {service.name for service in (await call.read()).list_services_response.service}
        assert {FABRIC, "grpc.health.v1.Health"} <= listed
        await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=FABRIC))
        files = (await call.read()).file_descriptor_response.file_descriptor_proto
        assert pb.DESCRIPTOR.serialized_pb in list(files)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


async def test_ordinary_stubs_made_from_the_proto_can_ask() -> None:
    async with GrpcTransport().serving(Service()) as at, grpc.aio.insecure_channel(str(at)) as channel:
        exchange: grpc.aio.StreamStreamMultiCallable[pb.Frame, pb.Frame] = channel.stream_stream(
            f"/{FABRIC}/Exchange",
            request_serializer=pb.Frame.SerializeToString,
            response_deserializer=pb.Frame.FromString,
        )
        call = exchange()
        first, *rest = [pb.Frame.FromString(data) for data in FRAMES]
        await call.write(first)
        assert await call.read() == pb.Frame(proceed=pb.Proceed(protocol=PROTO))
        for frame in rest:
            await call.write(frame)
        await call.done_writing()
        answered = [frame async for frame in _frames(call)]
    assert b"".join(frame.block for frame in answered) == body_of(question(MIB + 100))


async def _frames(call: "grpc.aio.StreamStreamCall[pb.Frame, pb.Frame]") -> AsyncIterator[pb.Frame]:
    while isinstance(frame := await call.read(), pb.Frame):
        yield frame


async def test_a_port_that_is_taken_is_said_with_the_way_out() -> None:
    async with GrpcTransport().serving(Service()) as at:
        with pytest.raises(NetworkError, match=rf"{at}.*taken.*port 0"):
            async with GrpcTransport(at).serving(Service()):
                pass


async def test_a_large_exchange_leaves_the_loop_responsive() -> None:
    held: list[float] = []  # by the processor's clock: the machine's own pauses are not the exchange's

    async def tick() -> None:
        while True:
            start = time.thread_time()
            await asyncio.sleep(0.005)
            held.append(time.thread_time() - start)

    a, b = GrpcTransport(), GrpcTransport()
    big = question(array=np.random.default_rng(0).integers(0, 256, 64 * MIB, np.uint8))
    async with a.serving(Service()) as at, b.serving(Service()), asyncio.TaskGroup() as group:
        ticker = group.create_task(tick())
        got, _ = await b.exchange(at, big)
        ticker.cancel()
    assert body_of(got) == body_of(big)
    assert len(held) > 5
    assert max(held) < 0.1


async def test_on_a_slow_link_blocks_are_packed_in_threads() -> None:
    relu = np.maximum(np.random.default_rng(0).standard_normal(MIB, np.float32), 0).view(np.uint8)
    a, b = GrpcTransport(), GrpcTransport()
    for transport in (a, b):
        link = transport._link_estimates.to("127.0.0.1")
        link.loopback, link.rate = False, GIGABIT / 10  # lz4 is faster than that, however busy the machine
    async with a.serving(Service()) as at, b.serving(Service()):
        got, traffic = await b.exchange(at, question(array=relu))
    assert body_of(got) == relu.tobytes()
    assert traffic.codec == "lz4"
    assert max(traffic.sent_bytes, traffic.received_bytes) < 0.8 * relu.size


async def test_a_slow_reader_of_many_frames_loses_none() -> None:
    """The server has long ended the call when the consumer comes to read."""
    async with GrpcTransport().serving(Service(answers=_several)) as at:
        async with grpc.aio.insecure_channel(str(at)) as channel:
            call = raw(channel)
            await call.write(frames_of(question())[0])
            await call.done_writing()
            await asyncio.sleep(0.3)
            count = 0
            while await call.read() is not grpc.aio.EOF:
                count += 1
    assert count == len(frames_of(answer(5 * MIB)))


async def _several(asked: Message) -> Message:
    return answer(5 * MIB)


# ---------------------------------------------------------------- mutual TLS


@dataclass(frozen=True)
class Pems:
    authority: bytes
    certificate: bytes
    key: bytes
    server_name: str = "peer.test"


class Authority:
    """A small private authority, as a group file holds."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "group")])
        self._certificate = self._signed(self._name, self._key.public_key(), authority=True)

    def mint(self) -> Pems:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "peer")])
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Pems(_pem(self._certificate), _pem(self._signed(name, key.public_key(), authority=False)), private)

    def _signed(self, name: x509.Name, key: ec.EllipticCurvePublicKey, *, authority: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("peer.test")]), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


async def test_mutual_tls_lets_in_the_group_and_nobody_else() -> None:
    group = Authority()
    a, b = GrpcTransport(credentials=group.mint()), GrpcTransport(credentials=group.mint())
    strangers = [GrpcTransport(timing=QUICK), GrpcTransport(timing=QUICK, credentials=Authority().mint())]
    async with a.serving(Service()) as at, b.serving(Service()):
        assert body_of((await b.exchange(at, question(MIB)))[0]) == body_of(question(MIB))
        for stranger in strangers:
            async with stranger:
                with pytest.raises(PeerUnreachable):
                    await stranger.exchange(at, question())


def test_the_allocator_is_tuned_where_it_is_glibc() -> None:
    assert tune_allocator() in (True, False)
