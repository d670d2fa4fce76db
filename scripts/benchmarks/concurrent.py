"""Several consumers of one provider at once, and small messages beside big ones."""

import asyncio
import time
from contextlib import AsyncExitStack

from benchmarks.consumer import Consumer
from benchmarks.raw import RawLine, touched
from peerlearn.transport.grpc.transport import GrpcTransport


async def at_once(consumer: Consumer, payload: str, nbytes: int, consumers: int, lane: str) -> list[float]:
    """Seconds until each of `consumers`, with connections of their own, had it; all ask at the same moment.

    `lane`: "fabric", or "tcp" for as many blocking sockets in threads.
    """
    async with AsyncExitStack() as stack:
        if lane == "tcp":
            lines = [RawLine(consumer.ports["tcp"], host=consumer.host) for _ in range(consumers)]
            for line in lines:
                stack.callback(line.close)
            places = [touched(nbytes) for _ in lines]
            async with asyncio.TaskGroup() as group:
                taken = [
                    group.create_task(asyncio.to_thread(line.take, payload, place))
                    for line, place in zip(lines, places, strict=True)
                ]
            return [task.result() for task in taken]
        transports = [consumer.new_transport("plain") for _ in range(consumers)]
        for transport in transports:
            await stack.enter_async_context(transport)
            await consumer.ask(transport, "plain", payload, have=True)  # connects
        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(_timed(consumer, transport, payload, start)) for transport in transports]
        return [task.result() for task in asked]


async def _timed(consumer: Consumer, transport: GrpcTransport, payload: str, start: float) -> float:
    await consumer.ask(transport, "plain", payload)
    return time.perf_counter() - start


async def notices(consumer: Consumer, count: int, *, bare: bool, beside: str) -> list[float]:
    """Seconds that each notice was under way; with `beside`, on the connection over which that payload moves again
    and again meanwhile."""
    if bare:
        return await consumer.bare_line("plain").ticks(count)
    if not beside:
        return await consumer.watched(count)
    async with asyncio.TaskGroup() as group:
        moving = group.create_task(_moving(consumer, consumer.transport(), beside))
        late = await consumer.watched(count)
        moving.cancel()
    return late


async def small_beside(consumer: Consumer, small: str, big: str, times: int) -> list[float]:
    """Seconds of each small exchange; with `big`, while another consumer of the same provider takes that."""
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        moving = None
        if big:
            other = await stack.enter_async_context(consumer.new_transport("plain"))
            moving = group.create_task(_moving(consumer, other, big))
        took = [await consumer.fabric(small) for _ in range(times)]
        if moving is not None:
            moving.cancel()
    return took


async def _moving(consumer: Consumer, transport: GrpcTransport, payload: str) -> None:
    while True:
        await consumer.ask(transport, "plain", payload)
