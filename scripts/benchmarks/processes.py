"""The conductor's processes: two sides that talk over loopback, or over a link, and do what they are told in turn."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.worker import LINE_BYTES
from peerlearn.errors import PeerlearnError

LOOPBACK = "127.0.0.1"
_LEAVE, _PATIENCE = 10.0, 900.0
SCRIPTS = str(Path(__file__).parents[1])
"""Where this package is found by processes that it starts; it is not installed."""


def environment() -> dict[str, str]:
    """Of a process that imports this package."""
    path = os.pathsep.join(filter(None, [SCRIPTS, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path}


_THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class SideFailed(PeerlearnError):
    """A process of the measurement ended by itself."""


class Unable(PeerlearnError):
    """What was asked for cannot be done on this machine; says why."""


class Remote:
    """One side, from its parent's end. One command at a time."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def do(self, command: str, **arguments: Any) -> Any:
        """Its result. Raises Unable with what the side said, and SideFailed when there is nobody to say anything."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": command, **arguments}).encode() + b"\n")
        try:
            async with asyncio.timeout(_PATIENCE):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise SideFailed(f"the process that should {command} had not done so within {_PATIENCE:g} s") from None
        if not line:
            code = await self._process.wait()
            raise SideFailed(f"the process that should {command} ended with code {code}; what it said stands above")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Unable(answer["error"])
        return answer["ok"]


@asynccontextmanager
async def side(*, tuned: bool = True, within: Sequence[str] = ()) -> AsyncIterator[Remote]:
    """A process. `tuned`: its allocator as our own commands have it. `within`: a command to run it inside, as words."""
    words = [*within, sys.executable, "-m", "benchmarks.worker", *(("--tuned",) if tuned else ())]
    process = await asyncio.create_subprocess_exec(
        *words, stdin=PIPE, stdout=PIPE, limit=LINE_BYTES, env={**environment(), **_THREADS},
        start_new_session=True,  # Ctrl-C is for the parent, which lets go of its sides
    )  # fmt: skip
    try:
        yield Remote(process)
    finally:
        await _end(process)


async def _end(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(_LEAVE):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


@dataclass(frozen=True, slots=True)
class Pair:
    provider: Remote
    consumer: Remote

    async def hold(self, payload: str, *, raw: bool = True) -> int:
        """Make the payload at the provider; the bytes of its body."""
        size: int = await self.provider.do("hold", payload=payload, raw=raw)
        return size

    async def lane(self, name: str, payload: str = "", nbytes: int = 0) -> float:
        (seconds,) = await self.consumer.do("lane", name=name, payload=payload, nbytes=nbytes)
        return float(seconds)


@asynccontextmanager
async def pair(group: str, *, tuned: bool = True) -> AsyncIterator[Pair]:
    """A provider that serves every lane on loopback, and a consumer that knows the ports."""
    async with side(tuned=tuned) as provider, side(tuned=tuned) as consumer:
        ports = await provider.do("provide", host=LOOPBACK, group=group)
        await consumer.do("consume", ports=ports, host=LOOPBACK, group=group)
        yield Pair(provider, consumer)


class Stage:
    """Pairs that several figures share: started when first needed, left together."""

    def __init__(self, group: str) -> None:
        """`group`: the file of a group, for the lanes over TLS."""
        self.group = group
        self._stack = AsyncExitStack()
        self._pairs: dict[bool, Pair] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def pair(self, *, tuned: bool = True) -> Pair:
        if tuned not in self._pairs:
            self._pairs[tuned] = await self._stack.enter_async_context(pair(self.group, tuned=tuned))
        return self._pairs[tuned]
