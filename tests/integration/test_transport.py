"""Both transports, through the suite that third parties run; then what only memory has, and what only gRPC has."""

import asyncio
import datetime
import socket
import time
from collections.abc import AsyncIterator
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

from peerlearn.config import MIB, Limits, Timing, brisk
from peerlearn.errors import (
    NetworkError,
    PeerRefused,
    PeerUnreachable,
    RefusalReason,
    WireError,
)
from peerlearn.testing import conformance, timed
from peerlearn.testing.messages import (
    PROTO,
    QUICK,
    ScriptedService,
    answer,
    body_of,
    frames_of,
    introduction,
    question,
)
from peerlearn.transport.grpc.transport import GrpcTransport
from peerlearn.transport.memory.transport import MemoryNetwork
from peerlearn.tuning.malloc import tune_allocator
from peerlearn.types import Address
from peerlearn.wire.compress import GIGABIT
from peerlearn.wire.frames import Message, serialize
from peerlearn.wire.v1 import fabric_pb2 as pb
from tests.support.raw_grpc import FABRIC, exchanging, raw

CHECKS = {
    **{f"memory-{check}": check for check in conformance.transport(MemoryNetwork().transport)},
    **{f"grpc-{check}": check for check in conformance.transport(GrpcTransport, again=GrpcTransport)},
}


@pytest.mark.parametrize("name", CHECKS)
def test_it_conforms(name: str) -> None:
    CHECKS[name]()


@pytest.mark.parametrize("kind", ["memory", "grpc"])
async def test_the_refusal_of_another_protocol_names_both_versions(kind: str) -> None:
    make: Any = GrpcTransport if kind == "grpc" else MemoryNetwork().transport
    a, b, foreign = make(), make(), pb.Protocol(major=2, minor=5)
    async with a.serving(ScriptedService()) as at, b.serving(ScriptedService()):
        for call in (
            b.introduce(at, pb.Introduction(protocol=foreign)),
            b.exchange(at, Message(pb.Header(protocol=foreign))),
        ):
            with pytest.raises(PeerRefused, match=r"2\.5.*1\.0"):
                await call


async def test_both_transports_count_the_same_bytes() -> None:
    counted = set()
    network = MemoryNetwork()
    for a, b in ((GrpcTransport(), GrpcTransport()), (network.transport(), network.transport())):
        async with a.serving(ScriptedService()) as at, b.serving(ScriptedService()):
            _, traffic = await b.exchange(at, question(2 * MIB + 1))
            counted.add((traffic.sent_bytes, traffic.received_bytes, traffic.body_bytes))
    assert len(counted) == 1


# ---------------------------------------------------------------- silence


@pytest.mark.parametrize(
    ("kind", "why"), [("memory", "nobody serves"), ("grpc", r"no connection \(Connection refused")]
)
async def test_the_error_says_that_nobody_is_there(kind: str, why: str) -> None:
    make: Any = GrpcTransport if kind == "grpc" else MemoryNetwork().transport
    a, b = make(), make()
    async with a.serving(ScriptedService()) as at:
        pass
    async with b.serving(ScriptedService()):
        with pytest.raises(PeerUnreachable, match=rf"^{at}: {why}"):
            await b.exchange(at, question())


async def test_a_cut_network_costs_a_window_and_heals() -> None:
    network = MemoryNetwork()
    a, b = network.transport(timing=QUICK), network.transport(timing=QUICK)
    async with a.serving(ScriptedService()) as at, b.serving(ScriptedService()):
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
    async with a.serving(ScriptedService(answers)) as at, b.serving(ScriptedService()):
        with pytest.raises(PeerUnreachable, match=r"nothing more came after \d+ of 67108864 bytes"):
            await b.exchange(at, question())


async def test_delay_is_felt_per_message_not_per_frame() -> None:
    network = MemoryNetwork(delay=0.05)
    a, b = network.transport(), network.transport()
    async with a.serving(ScriptedService()) as at, b.serving(ScriptedService()):
        with timed() as watch:
            _, traffic = await b.exchange(at, question())
        assert traffic.seconds >= 0.1
    assert watch.seconds < 0.3


# ---------------------------------------------------------------- hostile peers, over gRPC


FRAMES = frames_of(question(MIB + 100))
FLIPPED = FRAMES[1][:50] + bytes([FRAMES[1][50] ^ 1]) + FRAMES[1][51:]
HUGE = serialize(pb.Frame(header=pb.Header(protocol=PROTO, body_bytes=1 << 50)))
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
    async with a.serving(ScriptedService()) as at, b.serving(ScriptedService()):
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
    async with (
        a.serving(ScriptedService()) as at,
        b.serving(ScriptedService()),
        grpc.aio.insecure_channel(str(at)) as channel,
    ):
        call = raw(channel)
        await call.write(FRAMES[0])
        await call.write(FRAMES[1])
        assert isinstance(await call.read(), bytes)  # proceed
        with pytest.raises(grpc.aio.AioRpcError, match="nothing more came after 1048576 of 1048676 bytes"):
            await call.read()
        assert await b.exchange(at, question())


async def test_a_frame_larger_than_the_transport_takes_is_refused() -> None:
    a, b = GrpcTransport(), GrpcTransport()
    async with (
        a.serving(ScriptedService()) as at,
        b.serving(ScriptedService()),
        grpc.aio.insecure_channel(str(at)) as channel,
    ):
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
    async with GrpcTransport().serving(ScriptedService()) as at, grpc.aio.insecure_channel(str(at)) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", FABRIC):
            status = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert status.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Check(health_pb2.HealthCheckRequest(service="nothing"))


async def test_reflection_tells_the_fabrics_own_descriptor() -> None:
    async with GrpcTransport().serving(ScriptedService()) as at, grpc.aio.insecure_channel(str(at)) as channel:
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
    async with GrpcTransport().serving(ScriptedService()) as at, grpc.aio.insecure_channel(str(at)) as channel:
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
    async with GrpcTransport().serving(ScriptedService()) as at:
        with pytest.raises(NetworkError, match=rf"{at}.*taken.*port 0"):
            async with GrpcTransport(at).serving(ScriptedService()):
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
    async with a.serving(ScriptedService()) as at, b.serving(ScriptedService()), asyncio.TaskGroup() as group:
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
    async with a.serving(ScriptedService()) as at, b.serving(ScriptedService()):
        got, traffic = await b.exchange(at, question(array=relu))
    assert body_of(got) == relu.tobytes()
    assert traffic.codec == "lz4"
    assert max(traffic.sent_bytes, traffic.received_bytes) < 0.8 * relu.size


async def test_a_slow_reader_of_many_frames_loses_none() -> None:
    """The server has long ended the call when the consumer comes to read."""
    async with GrpcTransport().serving(ScriptedService(answers=_several)) as at:
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
    async with a.serving(ScriptedService()) as at, b.serving(ScriptedService()):
        assert body_of((await b.exchange(at, question(MIB)))[0]) == body_of(question(MIB))
        for stranger in strangers:
            async with stranger:
                with pytest.raises(PeerUnreachable):
                    await stranger.exchange(at, question())


def test_the_allocator_is_tuned_where_it_is_glibc() -> None:
    assert tune_allocator() in (True, False)
