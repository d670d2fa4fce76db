"""A gRPC server and a call without anything of ours above them."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from peerlearn.types import Address

FABRIC = "peerlearn.wire.v1.Fabric"


def raw(channel: grpc.aio.Channel) -> "grpc.aio.StreamStreamCall[bytes, bytes]":
    exchange: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(f"/{FABRIC}/Exchange")
    return exchange()


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
