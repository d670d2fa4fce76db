"""The same faults over gRPC: a relay in front of a transport, which carries every frame on as a bad network would."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress

import grpc
import grpc.aio

from peerlearn.config import Limits
from peerlearn.transport.base import Service, Traffic, Transport
from peerlearn.transport.exchange.unary import MARK
from peerlearn.transport.faults.model import FaultInjector, Faults
from peerlearn.transport.faults.queues import SimulatedLink
from peerlearn.transport.grpc.channels import options
from peerlearn.types import Address
from peerlearn.wire.frames import Message
from peerlearn.wire.partial_message import PartialMessage
from peerlearn.wire.v1 import fabric_pb2 as pb

_HERE, _OTHERS = Address("here", 0), Address("others", 0)
_GRACE = 1.0

Context = grpc.aio.ServicerContext[bytes, bytes]


class FaultyRelays:
    """A transport over plain gRPC that others reach by a bad network; see `transport.base.Transport`.

    `serving` yields the address of a relay on loopback: its callers meet the faults, in both directions, and neither
    end is built differently for it. What this transport itself calls is not relayed here, but at the peers that are
    called. All callers count as one link: a bandwidth is theirs together.
    """

    def __init__(self, transport: Transport, faults: Faults, seed: int = 0) -> None:
        self._transport = transport
        self._injector = FaultInjector(faults, seed)

    @property
    def faults(self) -> Faults:
        """May be set at any time."""
        return self._injector.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._injector.faults = faults

    @asynccontextmanager
    async def serving(self, service: Service) -> AsyncIterator[Address]:
        async with self._transport.serving(service) as inner, _relaying(inner, self._injector) as outer:
            yield outer

    async def introduce(self, to: Address, introduction: pb.Introduction) -> pb.Introduction:
        return await self._transport.introduce(to, introduction)

    async def reach(self, to: Address) -> None:
        await self._transport.reach(to)

    def watch(
        self,
        to: Address,
        request: pb.WatchRequest,
        *,
        notices: AsyncIterator[pb.Notice] | None = None,
        certificates: Collection[bytes] = (),
    ) -> AsyncGenerator[pb.Notice, None]:
        return self._transport.watch(to, request, notices=notices, certificates=certificates)

    async def exchange(
        self,
        to: Address,
        question: Message,
        *,
        into: PartialMessage | None = None,
        certificates: Collection[bytes] = (),
    ) -> tuple[Message, Traffic]:
        return await self._transport.exchange(to, question, into=into, certificates=certificates)


@asynccontextmanager
async def _relaying(inner: Address, injector: FaultInjector) -> AsyncIterator[Address]:
    settings = options(Limits())
    async with grpc.aio.insecure_channel(str(inner), options=[*settings, ("grpc.enable_http_proxy", 0)]) as channel:
        server = grpc.aio.server(handlers=(_Relay(channel, injector),), options=settings)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield Address("127.0.0.1", port)
        finally:
            await server.stop(_GRACE)


class _Relay(grpc.GenericRpcHandler):
    """Every method as a stream of bytes in both directions, which is what all of them are on the wire."""

    def __init__(self, channel: grpc.aio.Channel, injector: FaultInjector) -> None:
        self._channel = channel
        self._injector = injector

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        method = details.method

        async def relay(_: AsyncIterator[bytes], context: Context) -> None:
            calls: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(method)
            said = details.invocation_metadata
            call = calls(metadata=[(key, value) for key, value in said if key == MARK])
            kind = method.rpartition("/")[2].lower()
            try:
                failed = await _relayed(
                    call, context, self._link(_OTHERS, _HERE, kind), self._link(_HERE, _OTHERS, kind)
                )
            finally:
                call.cancel()
            if failed is not None:
                await context.abort(failed.code(), failed.details() or "")

        return grpc.stream_stream_rpc_method_handler(relay)

    def _link(self, source: Address, target: Address, kind: str) -> SimulatedLink:
        return SimulatedLink(self._injector.way(source, target, kind))


async def _relayed(
    call: "grpc.aio.StreamStreamCall[bytes, bytes]", context: Context, up: SimulatedLink, down: SimulatedLink
) -> grpc.aio.AioRpcError | None:
    """Until the inner call is over and all that it said has arrived; how it failed, if it did."""
    async with asyncio.TaskGroup() as pumps:
        going_up = (pumps.create_task(_listen(context, up)), pumps.create_task(_tell(call, up)))
        coming = pumps.create_task(_hear(call, down))
        try:
            while isinstance(data := await down.get(), bytes):
                await context.write(data)
        except (grpc.aio.BaseError, asyncio.InvalidStateError):
            data = None  # the caller has left
        for task in (*going_up, coming):
            task.cancel()
        up.shut()
        down.shut()
    return data if isinstance(data, grpc.aio.AioRpcError) else None


async def _listen(context: Context, up: SimulatedLink) -> None:
    while True:
        data: object = await context.read()
        if not isinstance(data, bytes):  # the stubs do not know of the end
            break
        await up.put(data)
    up.end(None)


async def _tell(call: "grpc.aio.StreamStreamCall[bytes, bytes]", up: SimulatedLink) -> None:
    with suppress(grpc.aio.BaseError, asyncio.InvalidStateError):  # the inner call is over: `_hear` knows how
        while isinstance(data := await up.get(), bytes):
            await call.write(data)
        await call.done_writing()


async def _hear(call: "grpc.aio.StreamStreamCall[bytes, bytes]", down: SimulatedLink) -> None:
    try:
        while isinstance(data := await call.read(), bytes):
            await down.put(data)
    except grpc.aio.AioRpcError as failed:
        down.end(failed)
    else:
        down.end(None)
