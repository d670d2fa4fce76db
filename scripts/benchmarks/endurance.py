"""Thousands of exchanges: whole ones, and such as are cancelled or broken half-way. What is left behind is counted."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from benchmarks import memory
from benchmarks.consumer import Consumer
from benchmarks.raw import HOST
from peerlearn.errors import PeerUnreachable
from peerlearn.tasks import background
from peerlearn.types import Address

_PIECE = 64 * 1024
_LEAST, _MOST = 100_000, 3_000_000
"""Bytes of an answer after which a wire is cut."""
_SETTLE = 0.2
"""Seconds in which what ends by itself has ended."""


async def exchanges(consumer: Consumer, payload: str, times: int, how: str) -> dict[str, int]:
    """`how`: "whole", or "broken", half of them cancelled at a random moment and half by a connection that is reset
    half-way. What is held afterwards, and how many of them did not come through."""
    draw = random.Random(times)
    usual = min([await consumer.fabric(payload) for _ in range(5)])
    failed = 0
    for number in range(times):
        if how == "whole":
            await consumer.fabric(payload)
        elif number % 2:
            failed += await _cancelled(consumer, payload, draw.uniform(0, usual))
        else:
            failed += await _reset(consumer, payload, draw.randrange(_LEAST, _MOST))
    await asyncio.sleep(_SETTLE)
    return {**memory.held(), "failed": failed}


async def _cancelled(consumer: Consumer, payload: str, after: float) -> bool:
    try:
        async with asyncio.timeout(after):
            await consumer.fabric(payload)
    except TimeoutError:
        return True
    return False


async def _reset(consumer: Consumer, payload: str, after: int) -> bool:
    """By a transport of its own, over a wire that is cut after so many bytes."""
    async with _wire(consumer.address("plain"), after) as address, consumer.new_transport("plain") as transport:
        try:
            await consumer.exchange(transport, "plain", payload, to=address)
        except PeerUnreachable:
            return True
    return False


@asynccontextmanager
async def _wire(to: Address, after: int) -> AsyncIterator[Address]:
    """Inside the block, an address that leads to `to`, until `after` bytes have come back."""

    async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(to.host, to.port)
        try:
            async with background() as tasks:
                tasks.start(_forward(reader, far_writer, None), name="bench:up")
                await _forward(far_reader, writer, after)
        finally:
            for end in (writer, far_writer):
                end.transport.abort()

    server = await asyncio.start_server(joined, HOST, 0)
    try:
        yield Address(HOST, server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await server.wait_closed()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int | None) -> None:
    passed = 0
    with suppress(ConnectionError):
        while (most is None or passed < most) and (data := await reader.read(_PIECE)):
            writer.write(data)
            await writer.drain()
            passed += len(data)
