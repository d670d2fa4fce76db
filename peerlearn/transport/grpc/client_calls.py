"""Calls over gRPC, seen from the side that makes them: no operation of an exchange is broken off."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio

from peerlearn.errors import PeerUnreachable
from peerlearn.transport.exchange.unary import MARK
from peerlearn.transport.grpc.channels import translated
from peerlearn.wire.seal import sealed
from peerlearn.wire.v1 import fabric_pb2 as pb

T = TypeVar("T")

_BY_UNARY_CALL = grpc.aio.Metadata((MARK, "1"))

Call: TypeAlias = "grpc.aio.UnaryStreamCall[bytes, bytes] | grpc.aio.StreamStreamCall[bytes, bytes]"


async def unbroken(conversation: Coroutine[Any, Any, T], end: Callable[[], None]) -> T:
    """Its result. When the waiting task is cancelled, `end` ends the call, and the conversation by that.

    gRPC never frees what an operation holds whose await was cancelled, a block of an answer for one
    (https://github.com/grpc/grpc/issues/43360): an operation must end by itself. One task for all of a call's
    operations, since one for each would make every block wait for the event loop once more.
    """
    task = asyncio.get_running_loop().create_task(conversation)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        end()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # retrieved: that the call was ended is our own doing
        raise
    finally:
        del task  # it holds its error, and that this frame: they, and the call, would wait for the cycle collector


class CallPipe:
    """The consumer's end of an exchange whose question brings a body."""

    def __init__(self, call: "grpc.aio.StreamStreamCall[bytes, bytes]", peer: str) -> None:
        self._call = call
        self._peer = peer

    async def read(self) -> bytes | None:
        return await _read(self._call, self._peer)

    async def write(self, data: bytes) -> None:
        try:
            await self._call.write(data)
        except grpc.aio.AioRpcError as error:
            raise translated(self._peer, error) from error
        except asyncio.InvalidStateError as error:
            raise PeerUnreachable(self._peer, "it ended the exchange before the question was through") from error

    async def done(self) -> None:
        await self._call.done_writing()

    def end(self) -> None:
        """Does nothing once the call is over."""
        self._call.cancel()


class QuestionPipe:
    """The same for a question of one frame: on the wire no different, and made in one step instead of three."""

    def __init__(self, method: "grpc.aio.UnaryStreamMultiCallable[bytes, bytes]", peer: str) -> None:
        self._method = method
        self._peer = peer
        self._call: grpc.aio.UnaryStreamCall[bytes, bytes] | None = None

    async def read(self) -> bytes | None:
        assert self._call is not None  # the question comes first
        return await _read(self._call, self._peer)

    async def write(self, data: bytes) -> None:
        self._call = self._method(data)

    async def done(self) -> None:
        """The question has said so."""

    def end(self) -> None:
        if self._call is not None:
            self._call.cancel()


class UnaryExchangeCall:
    """An exchange of one frame each way. Its one operation is not broken off either: the cancellation of the waiting
    task takes effect when the call has ended."""

    def __init__(self, method: "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]", peer: str) -> None:
        self._method = method
        self._peer = peer

    async def ask(self, data: bytes) -> bytes | None:
        """None when the other end has ended without an answer. Raises PeerUnreachable, PeerRefused or WireError."""
        call = self._method(data, metadata=_BY_UNARY_CALL)
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        call.add_done_callback(partial(_end, over))
        try:
            await asyncio.shield(over)
        except asyncio.CancelledError:
            _cancel(call)
            with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await call
            raise
        try:
            reply: object = await call
        except grpc.aio.AioRpcError as error:
            raise translated(self._peer, error) from error
        return reply if isinstance(reply, bytes) else None  # the stubs do not know of a call that ends without one


def _cancel(call: Any) -> None:
    """`call.cancel()` would cancel the await of its operation too (see `unbroken`): only what is left where a release
    of gRPC has nothing beneath it."""
    if (beneath := getattr(call, "_cython_call", None)) is not None:
        beneath.cancel("cancelled by the one who asks")
    else:
        call.cancel()


async def tell(
    call: "grpc.aio.StreamStreamCall[bytes, bytes]", request: pb.WatchRequest, notices: AsyncIterator[pb.Notice]
) -> None:
    """Send the requests of a watch that tells, until there is nothing more to tell or the call is over. Why it is over,
    the task that reads the answers learns."""
    with suppress(grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError):
        await call.write(sealed(request.SerializeToString()))
        async for notice in notices:
            await call.write(sealed(pb.WatchRequest(notice=notice).SerializeToString()))
        await call.done_writing()


def _end(over: asyncio.Future[None], _: object) -> None:
    if not over.done():
        over.set_result(None)


async def _read(call: Call, peer: str) -> bytes | None:
    try:
        data: object = await call.read()
    except grpc.aio.AioRpcError as error:
        raise translated(peer, error) from error
    return data if isinstance(data, bytes) else None
