"""The fabric over gRPC: one server, cached connections by address, and the fast path for bodies."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Self

import grpc
import grpc.aio

from peerlearn.config import Limits, Timing
from peerlearn.errors import NetworkError, PeerRefused, PeerUnreachable, RefusalReason
from peerlearn.tasks import background
from peerlearn.transport.base import Credentials, Guard, Service, Traffic
from peerlearn.transport.exchange.deadline import Deadline
from peerlearn.transport.exchange.dispatcher import Dispatcher, LinkEstimates, read_introduction, read_notice
from peerlearn.transport.exchange.protocol import ask
from peerlearn.transport.exchange.unary import UnaryHistory, ask_unary
from peerlearn.transport.grpc.channels import ChannelPool, options, translated
from peerlearn.transport.grpc.client_calls import CallPipe, QuestionPipe, UnaryExchangeCall, tell, unbroken
from peerlearn.transport.grpc.interceptor import GuardInterceptor
from peerlearn.transport.grpc.pins import Chain, Pins
from peerlearn.transport.grpc.server import EXCHANGE, SERVICE, WATCH, Health, Servicer, enable_reflection
from peerlearn.transport.grpc.tls import check_can_tell, der_to_pem, server_credentials, speaks_tls, stranger
from peerlearn.tuning.malloc import let_allocator_adapt
from peerlearn.tuning.rlimit import shortage
from peerlearn.types import Address
from peerlearn.wire.frames import Message
from peerlearn.wire.partial_message import PartialMessage
from peerlearn.wire.seal import sealed
from peerlearn.wire.v1 import fabric_pb2 as pb

__all__ = ["Credentials", "GrpcTransport"]

log = logging.getLogger("peerlearn")
LOOPBACK = Address("127.0.0.1", 0)
_GRACE = 1.0
"""Seconds that calls under way may take to end when serving ends: goodbyes are through by then."""


class GrpcTransport:
    """Serves at `listen` (port 0: any free one) and calls others; see `transport.base.Transport`.

    With `credentials` every connection, in both directions, is mutual TLS; without, it is plain. With a `guard` too it
    is TLS 1.3, every call of either side is for the guard to allow, and a peer that was introduced is pinned: later
    calls go to the holder of that certificate or nowhere. Connections are closed when `serving` ends; one that only
    calls is closed by `async with`.
    """

    def __init__(
        self,
        listen: Address = LOOPBACK,
        *,
        timing: Timing | None = None,
        limits: Limits | None = None,
        credentials: Credentials | None = None,
        guard: Guard | None = None,
    ) -> None:
        """Raises ConfigError when this grpc cannot keep a guarded transport to TLS 1.3."""
        if guard is not None:
            check_can_tell()
        self._listen = listen
        self._timing = timing or Timing()
        self._limits = limits or Limits()
        self._credentials = credentials
        self._channels = ChannelPool(self._limits, credentials)
        let_allocator_adapt(self._limits.look_ahead_bytes)
        self._link_estimates = LinkEstimates()
        self._unary_history = UnaryHistory()
        self._guard = guard
        self._pins = Pins(self._limits.peers)
        self._interceptor: GuardInterceptor | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channels.close()

    @asynccontextmanager
    async def serving(self, service: Service) -> AsyncIterator[Address]:
        """Raises NetworkError when the address cannot be listened at."""
        if (too_few := shortage(self._limits.peers)) is not None:
            log.warning(too_few)
        # without so_reuseport two peers on one port are an error that can be told, not traffic that goes astray
        serving = [("grpc.so_reuseport", 0), ("grpc.max_concurrent_streams", self._limits.streams)]
        interceptor = self._interceptor = GuardInterceptor(self._guard, self._limits)
        server = grpc.aio.server(interceptors=(interceptor,), options=[*options(self._limits), *serving])
        calls = Servicer(Dispatcher(service, self._timing, self._limits, self._link_estimates))
        server.add_generic_rpc_handlers((calls.handler(),))
        health = Health()
        await health.join(server)
        enable_reflection(server)
        port = self._bind(server)
        await server.start()
        try:
            yield Address(self._listen.host, port)
        finally:
            await health.leave()
            await self._channels.close()
            await server.stop(_GRACE)

    def _bind(self, server: grpc.aio.Server) -> int:
        try:
            if self._credentials is None:
                port = server.add_insecure_port(str(self._listen))
            else:
                port = server.add_secure_port(str(self._listen), server_credentials(self._credentials))
        except RuntimeError as error:
            raise NetworkError(_cannot_listen(self._listen)) from error
        if port == 0:
            raise NetworkError(_cannot_listen(self._listen))
        return port

    def recheck(self) -> None:
        """The guard has changed its mind: end what goes on, in either direction, with those it no longer lets in."""
        if self._guard is None:
            return
        if self._interceptor is not None:
            self._interceptor.recheck()
        for address, refused in self._pins.unwelcome(self._guard):
            self._channels.cut(address, refused)

    async def introduce(self, to: Address, introduction: pb.Introduction) -> pb.Introduction:
        """Two groups, or a group and none, are told from silence: PeerRefused(GROUP)."""
        guard = self._guard
        if guard is None:
            return await self._plainly(to, introduction)
        if to in self._pins:
            with suppress(PeerUnreachable):  # another peer is there, or the same one with a new certificate
                async with self._channels.fresh(to, self._pins.roots(to)) as channel:
                    answer = await self._introduced(channel, to, introduction)
                if self._pins.holds(to, answer.card.certificates):
                    guard.check(answer.card.certificates, str(to))
                    return answer
        chain = await self._shown_at(to, introduction)
        answer = await self._proved(to, introduction, chain)
        self._pins.forget(to)  # first, because the guard may not let in the holder that is there now
        guard.check(chain, str(to))
        self._pins.put(to, chain)
        return answer

    async def _shown_at(self, to: Address, introduction: pb.Introduction) -> Chain:
        """The certificate that is said to be there, asked for without showing our card."""
        look = pb.Introduction(protocol=introduction.protocol, group_tag=introduction.group_tag)
        async with self._channels.once(to) as channel:
            try:
                seen = await self._introduced(channel, to, look)
            except PeerUnreachable as error:
                raise _explained(to, error) from error
        if not seen.card.certificates:
            raise PeerRefused(str(to), RefusalReason.IDENTITY, "it does not say which certificate is its own")
        return tuple(seen.card.certificates)

    async def _proved(self, to: Address, introduction: pb.Introduction, chain: Chain) -> pb.Introduction:
        """The answer to our card, which only the holder of this certificate gets to see."""
        try:
            async with self._channels.fresh(to, der_to_pem(chain[0])) as channel:
                answer = await self._introduced(channel, to, introduction)
                if tuple(answer.card.certificates[:1]) != chain[:1]:
                    said = "its card names a certificate that it has not shown"
                    raise PeerRefused(str(to), RefusalReason.IDENTITY, said)
        except PeerUnreachable as error:
            if "CERTIFICATE_VERIFY_FAILED" in error.detail:
                said = "the certificate that its card names is not that of its connection"
                raise PeerRefused(str(to), RefusalReason.IDENTITY, said) from error
            raise
        return answer

    async def _plainly(self, to: Address, introduction: pb.Introduction) -> pb.Introduction:
        try:
            async with self._channels.fresh(to) as channel:
                return await self._introduced(channel, to, introduction)
        except PeerUnreachable as error:
            if self._credentials is None and "closed" in error.detail and await speaks_tls(to):
                raise PeerRefused(str(to), RefusalReason.GROUP, "it speaks only TLS: it is of a group") from error
            raise

    async def _introduced(self, channel: grpc.aio.Channel, to: Address, said: pb.Introduction) -> pb.Introduction:
        introduce: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/Introduce")
        call = introduce(sealed(said.SerializeToString()))
        try:
            with Deadline(self._timing, str(to)) as deadline:
                data = await deadline.first(call, "no introduction")
        except grpc.aio.AioRpcError as error:
            raise translated(str(to), error) from error
        return read_introduction(data, self._limits)

    async def reach(self, to: Address) -> None:
        try:
            async with asyncio.timeout(self._timing.base):
                way, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, to.host, to.port)
        except TimeoutError:
            raise PeerUnreachable(str(to), f"no answer within {self._timing.base:g} s") from None
        except OSError as error:
            raise PeerUnreachable(str(to), f"no connection ({error.strerror or error})") from error
        way.abort()

    async def watch(
        self,
        to: Address,
        request: pb.WatchRequest,
        *,
        notices: AsyncIterator[pb.Notice] | None = None,
        certificates: Collection[bytes] = (),
    ) -> AsyncGenerator[pb.Notice, None]:
        async with self._channels.to(to, self._roots(to, certificates)) as channel, background() as tasks:
            call: grpc.aio.UnaryStreamCall[bytes, bytes] | grpc.aio.StreamStreamCall[bytes, bytes]
            if notices is None:
                one_way: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(WATCH)
                call = one_way(sealed(request.SerializeToString()))
            else:
                both_ways: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(WATCH)
                call = both_ways()
                tasks.start(tell(call, request, notices), name=f"tell:{to}")
            try:
                async for data in call:
                    yield read_notice(data, self._limits)
            except grpc.aio.AioRpcError as error:
                raise translated(str(to), error) from error
            finally:
                call.cancel()

    async def exchange(
        self,
        to: Address,
        question: Message,
        *,
        into: PartialMessage | None = None,
        certificates: Collection[bytes] = (),
    ) -> tuple[Message, Traffic]:
        partial = into if into is not None else PartialMessage()
        answer, before = None, Traffic()
        try:
            async with self._channels.bulk(to, self._roots(to, certificates)) as channel:
                if self._unary_history.expected(to, question, partial):
                    answer, before = await self._asked_by_unary_call(channel, str(to), question, partial)
                if answer is not None:
                    return answer, before
                answer, traffic = await self._asked(channel, to, question, partial)
                return answer, traffic + before
        finally:
            self._unary_history.learn(to, question, answer)

    async def _asked_by_unary_call(
        self, channel: grpc.aio.Channel, peer: str, question: Message, partial: PartialMessage
    ) -> tuple[Message | None, Traffic]:
        call = UnaryExchangeCall(channel.unary_unary(EXCHANGE), peer)
        return await ask_unary(call.ask, question, partial, peer=peer, timing=self._timing, limits=self._limits)

    async def _asked(
        self, channel: grpc.aio.Channel, to: Address, question: Message, partial: PartialMessage
    ) -> tuple[Message, Traffic]:
        peer = str(to)
        pipe = _pipe(channel, peer, brings=bool(question.header.body_bytes))
        try:
            conversation = ask(
                pipe,
                question,
                partial,
                peer=peer,
                timing=self._timing,
                limits=self._limits,
                link=self._link_estimates.to(to.host),
            )
            return await unbroken(conversation, pipe.end)
        finally:
            pipe.end()

    def _roots(self, to: Address, certificates: Collection[bytes]) -> bytes:
        return self._pins.roots(to, certificates) if self._guard is not None else b""


def _explained(to: Address, error: PeerUnreachable) -> PeerUnreachable | PeerRefused:
    said = stranger(error.detail)
    return PeerRefused(str(to), RefusalReason.GROUP, said) if said is not None else error


def _pipe(channel: grpc.aio.Channel, peer: str, *, brings: bool) -> CallPipe | QuestionPipe:
    if not brings:
        asked: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(EXCHANGE)
        return QuestionPipe(asked, peer)
    exchange: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(EXCHANGE)
    return CallPipe(exchange(), peer)


def _cannot_listen(address: Address) -> str:
    return (
        f"cannot listen at {address}: the port is taken by another program, or the address is not this machine's; "
        "choose another port, or port 0 for any free one"
    )
