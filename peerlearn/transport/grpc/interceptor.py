"""What stands before every call that comes over gRPC, health and reflection included: a group's guard, a rate limit.

It also ends the calls under way of callers that the guard no longer lets in.
"""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio

from peerlearn.clock import now
from peerlearn.config import Limits
from peerlearn.errors import PeerRefused, RefusalReason
from peerlearn.ratelimit import RateLimiter
from peerlearn.transport.base import Caller, Guard
from peerlearn.transport.grpc.channels import refusal_details
from peerlearn.transport.grpc.tls import Context, caller_of, is_tls13

T = TypeVar("T")


Behaviour = Callable[[Any, Any], Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"


class GuardInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls of callers that the guard does not let in, and of callers that call more often than `limits.calls`
    per second. Without a guard only the rate counts."""

    def __init__(self, guard: Guard | None, limits: Limits) -> None:
        self._guard = guard
        self._rate = RateLimiter(limits.calls)
        self._inside: dict[asyncio.Timeout, Caller] = {}
        self._guarded: dict[Handler, Handler] = {}

    def recheck(self) -> None:
        """End the calls of callers that the guard no longer lets in."""
        for end, caller in tuple(self._inside.items()):
            if end.when() is None and self._refusal(caller) is not None:
                end.reschedule(now())

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]], details: grpc.HandlerCallDetails
    ) -> Handler:
        handler = await continuation(details)
        if handler is None:
            return None
        guarded = self._guarded.get(handler)
        if guarded is None:
            guarded = self._guarded[handler] = self._before(handler)
        return guarded

    def _before(self, handler: "grpc.RpcMethodHandler[Any, Any]") -> "grpc.RpcMethodHandler[Any, Any]":
        forms: dict[str, Any] = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(self._streaming(handler.stream_stream), **forms)
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(self._single(handler.stream_unary), **forms)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(self._streaming(handler.unary_stream), **forms)
        return grpc.unary_unary_rpc_method_handler(self._single(handler.unary_unary), **forms)

    def _single(self, behaviour: Behaviour | None) -> Behaviour:
        assert behaviour is not None

        async def guarded(request: Any, context: Context) -> Any:
            return await self._pass(context, lambda: behaviour(request, context))

        return guarded

    def _streaming(self, behaviour: Behaviour | None) -> Behaviour:
        assert behaviour is not None

        async def guarded(request: Any, context: Context) -> None:
            await self._pass(context, lambda: _written(behaviour(request, context), context))

        return guarded

    async def _pass(self, context: Context, call: Callable[[], Awaitable[T]]) -> T:
        caller = caller_of(context)
        refused = self._unfit(context, caller) or self._refusal(caller)
        if refused is None and not self._rate.allows(caller.counted_as, now()):
            refused = PeerRefused(caller.host, RefusalReason.BUSY, "you call too often: slow down")
        if refused is None and self._guard is None:
            return await call()
        if refused is None:
            try:
                async with asyncio.timeout(None) as end:
                    self._inside[end] = caller
                    try:
                        return await call()
                    finally:
                        del self._inside[end]
            except TimeoutError:
                refused = self._refusal(caller)
                if refused is None or not end.expired():
                    raise
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, refusal_details(refused))

    def _unfit(self, context: Context, caller: Caller) -> PeerRefused | None:
        if self._guard is None or is_tls13(context):
            return None
        return PeerRefused(caller.host, RefusalReason.PROTOCOL, "this group speaks TLS 1.3 and nothing older")

    def _refusal(self, caller: Caller) -> PeerRefused | None:
        if self._guard is not None:
            try:
                self._guard.check(caller.certificates, caller.host)
            except PeerRefused as refused:
                return refused
        return None


async def _written(result: Awaitable[None] | AsyncGenerator[Any, None], context: Context) -> None:
    """A streaming handler either writes by itself, or is an async generator of what to write."""
    if inspect.isawaitable(result):
        await result
        return
    async with aclosing(result) as messages:
        async for message in messages:
            await context.write(message)
