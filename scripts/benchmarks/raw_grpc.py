"""What gRPC itself can do, without anything of ours: bytes framed by hand, generated messages, and bare echoes.

The byte lane has the settings of our own transport; the generated ones have gRPC's, as anybody would write them.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import numpy as np

from benchmarks.raw import HOST, Find
from peerlearn.config import MIB, Limits
from peerlearn.transport.base import Credentials
from peerlearn.transport.grpc.channels import options
from peerlearn.transport.grpc.tls import channel_credentials, server_credentials
from peerlearn.wire.frames import Block, serialize
from peerlearn.wire.v1 import fabric_pb2 as pb

_SERVICE = "bench.Bare"
_PREFIX = 16
"""At most so many bytes of tag and length stand before a block."""
_ANY_SIZE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_TICK = 0.005


@asynccontextmanager
async def serving(find: Find, credentials: Credentials | None = None) -> AsyncIterator[dict[str, int]]:
    """Inside the block the lanes are served: at port "bare" with our settings, at "generated" with gRPC's own."""
    lanes = _Lanes(find)
    bare = grpc.aio.server(options=options(Limits()))
    generated = grpc.aio.server(options=_ANY_SIZE)
    bare.add_generic_rpc_handlers((lanes.bare(),))
    generated.add_generic_rpc_handlers((lanes.generated(),))
    if credentials is None:
        ports = {name: server.add_insecure_port(f"{HOST}:0") for name, server in _named(bare, generated)}
    else:
        ports = {
            name: server.add_secure_port(f"{HOST}:0", server_credentials(credentials))  # good for one port
            for name, server in _named(bare, generated)
        }
    await bare.start()
    await generated.start()
    try:
        yield ports
    finally:
        await bare.stop(0)
        await generated.stop(0)


def _named(bare: grpc.aio.Server, generated: grpc.aio.Server) -> tuple[tuple[str, grpc.aio.Server], ...]:
    return ("bare", bare), ("generated", generated)


class _Lanes:
    def __init__(self, find: Find) -> None:
        self._find = find

    def bare(self) -> grpc.GenericRpcHandler:
        calls: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Blocks": grpc.unary_stream_rpc_method_handler(self._blocks),
            "Echo": grpc.unary_unary_rpc_method_handler(self._echo),
            "EchoStream": grpc.stream_stream_rpc_method_handler(self._echo_stream),
            "Ticks": grpc.unary_stream_rpc_method_handler(self._ticks),
        }
        return grpc.method_handlers_generic_handler(_SERVICE, calls)

    def generated(self) -> grpc.GenericRpcHandler:
        write = pb.Frame.SerializeToString
        calls: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Frames": grpc.unary_stream_rpc_method_handler(self._frames, response_serializer=write),
            "Whole": grpc.unary_unary_rpc_method_handler(self._whole, response_serializer=write),
        }
        return grpc.method_handlers_generic_handler(_SERVICE, calls)

    async def _blocks(self, name: bytes, context: Any) -> AsyncIterator[bytes]:
        body = self._find(name.decode())
        for at in range(0, len(body), MIB):
            yield serialize(Block((body[at : at + MIB],)))

    async def _frames(self, name: bytes, context: Any) -> AsyncIterator[pb.Frame]:
        body = self._find(name.decode())
        for at in range(0, len(body), MIB):
            yield pb.Frame(block=bytes(body[at : at + MIB]))

    async def _whole(self, name: bytes, context: Any) -> pb.Frame:
        return pb.Frame(block=bytes(self._find(name.decode())))

    async def _echo(self, data: bytes, context: Any) -> bytes:
        return data

    async def _echo_stream(self, _: AsyncIterator[bytes], context: Any) -> None:
        while isinstance(data := await context.read(), bytes):
            await context.write(data)

    async def _ticks(self, count: bytes, context: Any) -> AsyncIterator[bytes]:
        for _ in range(int(count)):
            yield time.monotonic_ns().to_bytes(8, "little")
            await asyncio.sleep(_TICK)


class BareLine:
    """The other end, over channels of its own."""

    def __init__(self, ports: dict[str, int], credentials: Credentials | None = None) -> None:
        ours = [*options(Limits()), ("grpc.use_local_subchannel_pool", 1)]
        bare, generated = f"{HOST}:{ports['bare']}", f"{HOST}:{ports['generated']}"
        if credentials is None:
            self._bare = grpc.aio.insecure_channel(bare, options=ours)
            self._generated = grpc.aio.insecure_channel(generated, options=_ANY_SIZE)
        else:
            tls = channel_credentials(credentials, credentials.authority)
            named = ("grpc.ssl_target_name_override", credentials.server_name)
            self._bare = grpc.aio.secure_channel(bare, tls, options=[*ours, named])
            self._generated = grpc.aio.secure_channel(generated, tls, options=[*_ANY_SIZE, named])

    async def close(self) -> None:
        await self._bare.close()
        await self._generated.close()

    async def blocks(self, payload: str, into: memoryview) -> None:
        call: Any = self._bare.unary_stream(f"/{_SERVICE}/Blocks")
        at = 0
        async for data in call(payload.encode()):
            start = _start_of(data)
            size = len(data) - start
            into[at : at + size] = memoryview(data)[start:]
            at += size
        _whole(at, into)

    async def frames(self, payload: str, into: memoryview) -> None:
        call: Any = self._generated.unary_stream(f"/{_SERVICE}/Frames", response_deserializer=pb.Frame.FromString)
        at = 0
        async for frame in call(payload.encode()):
            block = frame.block
            into[at : at + len(block)] = block
            at += len(block)
        _whole(at, into)

    async def unary(self, payload: str, into: memoryview) -> None:
        call: Any = self._generated.unary_unary(f"/{_SERVICE}/Whole", response_deserializer=pb.Frame.FromString)
        block = (await call(payload.encode())).block
        into[: len(block)] = block
        _whole(len(block), into)

    async def echo(self, data: bytes) -> None:
        call: Any = self._bare.unary_unary(f"/{_SERVICE}/Echo")
        await call(data)

    async def echo_stream(self, data: bytes) -> None:
        """A stream of its own, as every exchange has: one message up, one down."""
        method: Any = self._bare.stream_stream(f"/{_SERVICE}/EchoStream")
        call = method()
        await call.write(data)
        await call.done_writing()
        while isinstance(await call.read(), bytes):
            pass

    async def ticks(self, count: int) -> list[float]:
        """Seconds that each notice was under way."""
        call: Any = self._bare.unary_stream(f"/{_SERVICE}/Ticks")
        return [_since(data) async for data in call(str(count).encode())]


def _since(data: bytes) -> float:
    return (time.monotonic_ns() - int.from_bytes(data, "little")) / 1e9


def _start_of(data: bytes) -> int:
    """Where the bytes of a block begin, after the tag and a length of seven bits a byte."""
    return next(at for at in range(1, _PREFIX) if data[at] < 0x80) + 1


def _whole(got: int, into: memoryview) -> None:
    if got != len(into):
        raise ConnectionError(f"{got} of {len(into)} bytes came")


def fresh(nbytes: int) -> memoryview:
    """A destination whose pages are not there yet, as every receiver must begin."""
    return np.empty(nbytes, np.uint8).data
