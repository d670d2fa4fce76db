"""A provider in a process of its own."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil

from peerlearn.types import Address


@asynccontextmanager
async def provider(host: str = "127.0.0.1", *, space: str = "") -> AsyncIterator[tuple[psutil.Process, Address]]:
    inside = ["ip", "netns", "exec", space] if space else []
    child = await asyncio.create_subprocess_exec(
        *inside, sys.executable, "-m", "tests.support.fair_peer", "provider", host, stdout=PIPE
    )
    try:
        assert child.stdout is not None
        async with asyncio.timeout(60):
            port = int(await child.stdout.readline())
        yield psutil.Process(child.pid), Address(host, port)
    finally:
        child.kill()
        await child.wait()
