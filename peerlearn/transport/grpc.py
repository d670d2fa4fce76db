"""The fabric over gRPC: one server, one cached channel per address, and the fast path for bodies."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import grpc
import grpc.aio

from peerlearn.config import Limits, Timing
from peerlearn.errors import NetworkError
from peerlearn.transport.base import Service, Traffic
from peerlearn.transport.desk import Desk, Links, read_introduction, read_notice
from peerlearn.transport.exchange import ask
from peerlearn.transport.lines import CallPipe, Credentials, Lines, options, translated
from peerlearn.transport.patience import Patience
from peerlearn.transport.serve import SERVICE, Calls, Health, enable_reflection
from peerlearn.types import Address
from peerlearn.wire.frames import Message
from peerlearn.wire.v1 import fabric_pb2 as pb

__all__ = ["Credentials", "GrpcTransport"]

LOOPBACK = Address("127.0.0.1", 0)
_GRACE = 1.0


class GrpcTransport:
    """Serves at `listen` (port 0: any free one) and calls others; see `transport.base.Transport`.

    With `credentials` every connection, in both directions, is mutual TLS; without, it is plain. Connections are closed
    when `serving` ends; one that only calls is closed by `async with`.
    """

    def __init__(
        self,
        listen: Address = LOOPBACK,
        *,
        timing: Timing | None = None,
        limits: Limits | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self._listen = listen
        self._timing = timing or Timing()
        self._limits = limits or Limits()
        self._credentials = credentials
        self._lines = Lines(self._limits, credentials)
        self._links = Links()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._lines.close()

    @asynccontextmanager
    async def serving(self, service: Service) -> AsyncIterator[Address]:
        """Raises NetworkError when the address cannot be listened at."""
        # without so_reuseport two peers on one port are an error that can be told, not traffic that goes astray
        server = grpc.aio.server(options=[*options(self._limits), ("grpc.so_reuseport", 0)])
        calls = Calls(Desk(service, self._timing, self._limits, self._links))
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
            await self._lines.close()
            await server.stop(_GRACE)

    def _bind(self, server: grpc.aio.Server) -> int:
        try:
            if self._credentials is None:
                port = server.add_insecure_port(str(self._listen))
            else:
                port = server.add_secure_port(str(self._listen), _server_credentials(self._credentials))
        except RuntimeError as error:
            raise NetworkError(_cannot_listen(self._listen)) from error
        if port == 0:
            raise NetworkError(_cannot_listen(self._listen))
        return port

    async def introduce(self, to: Address, introduction: pb.Introduction) -> pb.Introduction:
        peer = str(to)
        async with self._lines.to(to) as channel:
            introduce: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/Introduce")
            call = introduce(introduction.SerializeToString())
            try:
                data = await Patience(self._timing, peer).first(call, "no introduction")
            except grpc.aio.AioRpcError as error:
                raise translated(peer, error) from error
        return read_introduction(data, self._limits)

    async def watch(self, to: Address, request: pb.WatchRequest) -> AsyncGenerator[pb.Notice, None]:
        peer = str(to)
        async with self._lines.to(to) as channel:
            watch: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(f"/{SERVICE}/Watch")
            call = watch(request.SerializeToString())
            try:
                async for data in call:
                    yield read_notice(data, self._limits)
            except grpc.aio.AioRpcError as error:
                raise translated(peer, error) from error
            finally:
                call.cancel()

    async def exchange(self, to: Address, question: Message) -> tuple[Message, Traffic]:
        peer = str(to)
        async with self._lines.to(to) as channel:
            exchange: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(f"/{SERVICE}/Exchange")
            call = exchange()
            try:
                return await ask(
                    CallPipe(call, peer),
                    question,
                    peer=peer,
                    timing=self._timing,
                    limits=self._limits,
                    link=self._links.to(to.host),
                )
            finally:
                call.cancel()  # does nothing once the call is over


def _server_credentials(credentials: Credentials) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(credentials.key, credentials.certificate)],
        root_certificates=credentials.authority,
        require_client_auth=True,
    )


def _cannot_listen(address: Address) -> str:
    return (
        f"cannot listen at {address}: the port is taken by another program, or the address is not this machine's; "
        "choose another port, or port 0 for any free one"
    )
