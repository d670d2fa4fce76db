"""The program that anybody would write: grpc.aio with its own settings and generated messages, and nothing else.

It has processes of its own. A transport of ours in its process, or a payload made of large tensors, would leave glibc's
allocator adapted to large blocks, which is half of what makes us faster (`tuning/malloc.py`): it would be
measured with our work done for it.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import numpy as np

from peerlearn.config import MIB
from peerlearn.wire.v1 import fabric_pb2 as pb

_HOST = "127.0.0.1"
_SERVICE = "bench.Anybody"
_ANY_SIZE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@asynccontextmanager
async def serving(nbytes: int) -> AsyncIterator[int]:
    """Inside the block `nbytes` are to be had, in chunks and as a whole; yields the port."""
    body = _buffer(nbytes)

    async def chunks(asked: bytes, context: Any) -> AsyncIterator[pb.Frame]:
        for at in range(0, nbytes, MIB):
            yield pb.Frame(block=bytes(body[at : at + MIB]))

    async def whole(asked: bytes, context: Any) -> pb.Frame:
        return pb.Frame(block=bytes(body))

    write = pb.Frame.SerializeToString
    calls: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Chunked": grpc.unary_stream_rpc_method_handler(chunks, response_serializer=write),
        "Unary": grpc.unary_unary_rpc_method_handler(whole, response_serializer=write),
    }
    server = grpc.aio.server(options=_ANY_SIZE)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, calls),))
    port = server.add_insecure_port(f"{_HOST}:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


class Asker:
    """The other end: one channel, and a destination that is there already."""

    def __init__(self, port: int, nbytes: int) -> None:
        self._channel = grpc.aio.insecure_channel(f"{_HOST}:{port}", options=_ANY_SIZE)
        self._place = _buffer(nbytes)

    async def close(self) -> None:
        await self._channel.close()

    async def lane(self, name: str) -> float:
        """Seconds of one pass: "chunked" or "unary"."""
        start = time.perf_counter()
        got = await (self._chunked() if name == "chunked" else self._unary())
        if got != len(self._place):
            raise ConnectionError(f"{got} of {len(self._place)} bytes came")
        return time.perf_counter() - start

    async def _chunked(self) -> int:
        call: Any = self._channel.unary_stream(f"/{_SERVICE}/Chunked", response_deserializer=pb.Frame.FromString)
        at = 0
        async for frame in call(b""):
            block = frame.block
            self._place[at : at + len(block)] = block
            at += len(block)
        return at

    async def _unary(self) -> int:
        call: Any = self._channel.unary_unary(f"/{_SERVICE}/Unary", response_deserializer=pb.Frame.FromString)
        block = (await call(b"")).block
        self._place[: len(block)] = block
        return len(block)


def _buffer(nbytes: int) -> memoryview:
    buffer = np.empty(nbytes, np.uint8)
    buffer.fill(7)
    return buffer.data
