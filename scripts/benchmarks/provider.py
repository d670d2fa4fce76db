"""The side that gives: our own transport, and every limit and rival that it is measured beside, in one process."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks import raw, raw_grpc
from benchmarks.payloads import make
from peerlearn.config import Limits
from peerlearn.errors import PeerRefused, RefusalReason
from peerlearn.knowledge import Answer, Knowledge, NotModified, Question
from peerlearn.orchestrator.training.compute import OwnThread
from peerlearn.security.group import Group
from peerlearn.security.passport import Passport
from peerlearn.transport.base import Caller
from peerlearn.transport.grpc.transport import GrpcTransport
from peerlearn.types import Address, PeerId
from peerlearn.wire.codec import decode_question, encode_answer
from peerlearn.wire.compress import LinkEstimate
from peerlearn.wire.frames import Message
from peerlearn.wire.protocol import our_protocol
from peerlearn.wire.v1 import fabric_pb2 as pb

ME, SESSION, STRATEGY = PeerId("0" * 32), "bench", "bench"
LIMITS = Limits(body_bytes=4 << 30, calls=1_000_000, exchanges=64)
_TICK = 0.005


class Shelf:
    """The payloads, made when they are first asked for; as knowledge, and as one run of bytes."""

    def __init__(self) -> None:
        self._knowledge: dict[str, Knowledge] = {}
        self._bytes: dict[str, memoryview] = {}

    def hold(self, name: str) -> Knowledge:
        if name not in self._knowledge:
            self._knowledge[name] = make(name)
        return self._knowledge[name]

    def body(self, name: str) -> memoryview:
        if name not in self._bytes:
            parts = encoded(self.hold(name)).body
            self._bytes[name] = parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
        return self._bytes[name]

    def drop(self, name: str) -> None:
        self._knowledge.pop(name, None)
        self._bytes.pop(name, None)


def encoded(answer: Answer, cast: str = "") -> Message:
    return encode_answer(answer, sender=ME, session=SESSION, strategy=STRATEGY, cast=cast)


class BenchService:
    """A peer that answers as every peer does: on a thread of its own it finds what was asked for, then encodes it."""

    def __init__(self, shelf: Shelf, thread: OwnThread) -> None:
        self._shelf = shelf
        self._thread = thread

    async def introduce(self, introduction: pb.Introduction, caller: Caller) -> pb.Introduction:
        return pb.Introduction(protocol=our_protocol(), observed=caller.host)

    async def watch(self, request: pb.WatchRequest, caller: Caller) -> AsyncIterator[pb.Notice]:
        """As many notices as the id says; each carries the moment at which it was written, as its version."""
        for _ in range(int(request.id)):
            yield pb.Notice(version=time.monotonic_ns())
            await asyncio.sleep(_TICK)

    async def told(self, request: pb.WatchRequest, caller: Caller, notices: AsyncIterator[pb.Notice]) -> None:
        """Nobody watches here who tells."""

    async def admit(self, header: pb.Header, caller: Caller) -> Caller:
        if header.HasField("knowledge"):
            raise PeerRefused("bench", RefusalReason.STRATEGY, "nothing is taken here")
        return caller

    async def answer(self, question: Message, caller: Caller) -> Message:
        asked = decode_question(question, limits=LIMITS)
        answer: Answer
        if asked.query.have == 1 and asked.query.have_session == SESSION:
            answer = NotModified(1)
        else:
            answer = await self._thread.run(self._found, asked)
        return encoded(answer, asked.query.cast)

    def _found(self, asked: Question) -> Answer:
        return self._shelf.hold(str(asked.query.select["payload"]))


class _NeverPays(LinkEstimate):
    """A link on which nothing is worth compressing: what the codec rule is compared with."""

    __slots__ = ()

    def pays(self, ratio: float, pack_rate: float, unpack_rate: float) -> bool:
        return False


class Provider:
    """Opened once; everything is served until `close`."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self._stack = AsyncExitStack()

    async def open(self, host: str, group: str, *, link: bool = False) -> dict[str, int]:
        """Ports by lane. `group`: the file of a group, for the lanes over TLS. `link`: for a link between two
        machines: there our transport is served twice, by its codec rule ("plain") and without a codec ("none")."""
        thread = OwnThread("bench:answers")
        self._stack.push_async_callback(thread.close)
        service = BenchService(self.shelf, thread)
        ports = {"plain": await self._served(GrpcTransport(Address(host, 0), limits=LIMITS), service)}
        ports["tcp"] = self._stack.enter_context(raw.serving(self.shelf.body, host=host))
        if link:
            return ports | {"none": await self._served(_without_codec(Address(host, 0)), service)}
        passport = Passport(Group.load(Path(group)))
        secure = GrpcTransport(Address(host, 0), limits=LIMITS, credentials=passport)
        ports["tls"] = await self._served(secure, service)
        ports["ssl"] = self._stack.enter_context(raw.serving(self.shelf.body, raw.context(passport, server=True)))
        ports |= await self._stack.enter_async_context(raw_grpc.serving(self.shelf.body))
        tls_ports = await self._stack.enter_async_context(raw_grpc.serving(self.shelf.body, passport))
        return ports | {f"{name}-tls": port for name, port in tls_ports.items()}

    async def _served(self, transport: GrpcTransport, service: BenchService) -> int:
        return (await self._stack.enter_async_context(transport.serving(service))).port

    async def close(self) -> None:
        await self._stack.aclose()


def _without_codec(address: Address) -> GrpcTransport:
    transport = GrpcTransport(address, limits=LIMITS)
    transport._link_estimates.to = lambda host: _NeverPays()  # type: ignore[method-assign]  # no setting turns the codec off
    return transport
