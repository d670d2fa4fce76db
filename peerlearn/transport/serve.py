"""The server's end of gRPC: raw bytes in, raw bytes out; what they mean is the desk's business."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio

from peerlearn.errors import PeerRefused, PeerUnreachable
from peerlearn.transport.desk import Desk
from peerlearn.transport.lines import refusal_details
from peerlearn.transport.tls import caller_of
from peerlearn.wire.v1 import fabric_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["Fabric"].full_name

Context = grpc.aio.ServicerContext[bytes, bytes]


class Calls:
    """The three calls of the fabric, as gRPC handlers without serializers."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def handler(self) -> grpc.GenericRpcHandler:
        calls: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Introduce": grpc.unary_unary_rpc_method_handler(self._introduce),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
            "Exchange": grpc.stream_stream_rpc_method_handler(self._exchange),
        }
        return grpc.method_handlers_generic_handler(SERVICE, calls)

    async def _introduce(self, data: bytes, context: Context) -> bytes:
        try:
            return await self._desk.introduce(data, caller_of(context))
        except PeerRefused as refused:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, refusal_details(refused))

    async def _watch(self, data: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            async with aclosing(self._desk.watch(data, caller_of(context))) as notices:
                async for notice in notices:
                    yield notice
        except PeerRefused as refused:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, refusal_details(refused))

    async def _exchange(self, _: AsyncIterator[bytes], context: Context) -> None:
        try:
            await self._desk.exchange(_ContextPipe(context), caller_of(context))
        except PeerUnreachable as gone:
            await context.abort(grpc.StatusCode.ABORTED, gone.detail)


class _ContextPipe:
    """The provider's end of an exchange over gRPC."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def read(self) -> bytes | None:
        data: object = await self._context.read()
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
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        await self._servicer.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)

    async def leave(self) -> None:
        await self._servicer.enter_graceful_shutdown()


def enable_reflection(server: grpc.aio.Server) -> None:
    """Let ordinary tools list and call what is served here."""
    from grpc_health.v1 import health
    from grpc_reflection.v1alpha import reflection

    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
