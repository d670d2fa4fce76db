"""The server's end of gRPC: raw bytes in, raw bytes out; what they mean is the dispatcher's business."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from typing import Any, TypeAlias

import grpc
import grpc.aio

from peerlearn.errors import PeerRefused, PeerUnreachable
from peerlearn.transport.exchange.dispatcher import Dispatcher
from peerlearn.transport.exchange.unary import MARK
from peerlearn.transport.grpc.channels import refusal_details
from peerlearn.transport.grpc.tls import caller_of
from peerlearn.wire.v1 import fabric_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["Fabric"].full_name
EXCHANGE = f"/{SERVICE}/Exchange"
WATCH = f"/{SERVICE}/Watch"

Context = grpc.aio.ServicerContext[bytes, bytes]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Metadata: TypeAlias = "Sequence[tuple[str, str | bytes]]"


class Servicer:
    """The three calls of the fabric, as gRPC handlers without serializers."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def handler(self) -> grpc.GenericRpcHandler:
        """What a gRPC server is given to serve the fabric."""
        return _Choice(
            {
                "Introduce": grpc.unary_unary_rpc_method_handler(self._introduce),
                "Watch": grpc.stream_stream_rpc_method_handler(self._watch),
                "Exchange": grpc.stream_stream_rpc_method_handler(self._exchange),
            },
            unary_exchange=grpc.unary_unary_rpc_method_handler(self._unary_exchange),
        )

    async def _introduce(self, data: bytes, context: Context) -> bytes:
        try:
            return await self._dispatcher.introduce(data, caller_of(context))
        except PeerRefused as refused:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, refusal_details(refused))

    async def _watch(self, _: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        try:
            async with aclosing(_requests(context)) as requests:
                first = await anext(requests, b"")
                async with aclosing(self._dispatcher.watch(first, caller_of(context), requests)) as notices:
                    async for notice in notices:
                        yield notice
        except PeerRefused as refused:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, refusal_details(refused))

    async def _exchange(self, _: AsyncIterator[bytes], context: Context) -> None:
        try:
            await self._dispatcher.exchange(_ContextPipe(context), caller_of(context))
        except PeerUnreachable as gone:
            await context.abort(grpc.StatusCode.ABORTED, gone.detail)

    async def _unary_exchange(self, data: bytes, context: Context) -> bytes:
        return await self._dispatcher.unary_exchange(data, caller_of(context))


class _Choice(grpc.GenericRpcHandler):
    """By method; an exchange also by whether the caller marks it as a unary call. On the wire both are one method."""

    def __init__(self, calls: dict[str, Handler], *, unary_exchange: Handler) -> None:
        self._calls = {f"/{SERVICE}/{name}": handler for name, handler in calls.items()}
        self._unary_exchange = unary_exchange

    def service(self, details: grpc.HandlerCallDetails) -> "Handler | None":
        if details.method == EXCHANGE and _is_unary(details.invocation_metadata):
            return self._unary_exchange
        return self._calls.get(details.method)


def _is_unary(metadata: Metadata) -> bool:
    return any(key == MARK for key, _ in metadata)


async def _requests(context: Context) -> AsyncGenerator[bytes, None]:
    """Until the caller has said all, or the call is over."""
    with suppress(grpc.aio.BaseError, asyncio.InvalidStateError):
        while isinstance(data := await _read(context), bytes):
            yield data


async def _read(context: Context) -> object:
    data: object = await context.read()  # the stubs do not know of the end
    return data


class _ContextPipe:
    """The provider's end of an exchange over gRPC."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def read(self) -> bytes | None:
        data = await _read(self._context)
        return data if isinstance(data, bytes) else None

    async def write(self, data: bytes) -> None:
        try:
            await self._context.write(data)
        except (grpc.aio.BaseError, asyncio.InvalidStateError) as error:
            raise PeerUnreachable(caller_of(self._context).host, "it left before the answer was through") from error

    async def done(self) -> None:
        """The handler's return ends the answer."""


class Health:
    """The standard health service: SERVING for the whole server ("") and for the fabric, until it leaves.

    Loaded by those who serve: a program that only asks starts sooner without it.
    """

    def __init__(self) -> None:
        from grpc_health.v1 import health

        self._servicer = health.aio.HealthServicer()

    async def join(self, server: grpc.aio.Server) -> None:
        """Serve health on this server from now on."""
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        await self._servicer.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)

    async def leave(self) -> None:
        """Say NOT_SERVING from now on."""
        await self._servicer.enter_graceful_shutdown()


def enable_reflection(server: grpc.aio.Server) -> None:
    """Let ordinary tools list and call what is served here."""
    from grpc_health.v1 import health
    from grpc_reflection.v1alpha import reflection

    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
