"""One process of a measurement: takes JSON lines on stdin, does what they say, answers with JSON lines on stdout.

It lives only while its parent holds its stdin. What a command needs is imported by that command: a side that measures
without torch must not have loaded it.
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from benchmarks import memory
from peerlearn.errors import PeerlearnError
from peerlearn.tuning.gc import tune_collector
from peerlearn.tuning.malloc import tune_allocator

if TYPE_CHECKING:
    from benchmarks.consumer import Consumer
    from benchmarks.minimal_peer import SmallestMember
    from benchmarks.naive_grpc import Asker
    from benchmarks.provider import Provider
    from benchmarks.rounds import RoundPeer

LINE_BYTES = 1 << 24
Do = Callable[..., Awaitable[Any]]


class Side:
    """What one process may be told to do. Results are plain JSON."""

    def __init__(self) -> None:
        self._provider: Provider | None = None
        self._consumer: Consumer | None = None
        self._member: RoundPeer | SmallestMember | None = None
        self._asker: Asker | None = None
        self._ports: dict[str, int] = {}
        self._stack = AsyncExitStack()

    async def close(self) -> None:
        for part in (self._consumer, self._asker, self._member, self._provider):
            if part is not None:
                await part.close()
        await self._stack.aclose()

    # ---------------------------------------------------------------- any side

    async def mark(self) -> dict[str, int]:
        """What is held now; the peak is forgotten."""
        memory.forget_peak()
        return memory.held()

    async def held(self) -> dict[str, int]:
        return memory.held()

    # ---------------------------------------------------------------- provider

    async def provide(self, host: str, group: str, link: bool = False) -> dict[str, int]:
        from benchmarks.provider import Provider

        self._provider = Provider()
        self._ports = await self._provider.open(host, group, link=link)
        return self._ports

    async def ports(self) -> dict[str, int]:
        return self._ports

    async def hold(self, payload: str, raw: bool = True) -> int:
        """Make it; the bytes of its body. `raw`: also as the limits' lanes send it."""
        from benchmarks.provider import encoded

        assert self._provider is not None
        shelf = self._provider.shelf
        size = encoded(shelf.hold(payload)).header.body_bytes
        return len(shelf.body(payload)) if raw else size

    async def drop(self, payload: str) -> None:
        assert self._provider is not None
        self._provider.shelf.drop(payload)

    # ---------------------------------------------------------------- consumer

    async def consume(self, ports: dict[str, int], host: str, group: str) -> None:
        from benchmarks.consumer import Consumer

        self._consumer = Consumer(ports, host, group)

    async def lane(self, name: str, payload: str = "", nbytes: int = 0, times: int = 1) -> list[float]:
        assert self._consumer is not None
        return [await self._consumer.lane(name, payload, nbytes) for _ in range(times)]

    async def concurrent(self, payload: str, nbytes: int, consumers: int, lane: str) -> list[float]:
        from benchmarks import concurrent

        assert self._consumer is not None
        return await concurrent.at_once(self._consumer, payload, nbytes, consumers, lane)

    async def notices(self, count: int, bare: bool = False, beside: str = "") -> list[float]:
        from benchmarks import concurrent

        assert self._consumer is not None
        return await concurrent.notices(self._consumer, count, bare=bare, beside=beside)

    async def small_beside(self, small: str, big: str, times: int) -> list[float]:
        from benchmarks import concurrent

        assert self._consumer is not None
        return await concurrent.small_beside(self._consumer, small, big, times)

    async def endure(self, payload: str, times: int, how: str = "whole") -> dict[str, int]:
        from benchmarks import endurance

        assert self._consumer is not None
        return await endurance.exchanges(self._consumer, payload, times, how)

    # ---------------------------------------------------------------- sides of their own kind

    async def serve_as_anybody(self, nbytes: int) -> int:
        """The port."""
        from benchmarks import naive_grpc

        return await self._stack.enter_async_context(naive_grpc.serving(nbytes))

    async def ask_as_anybody(self, port: int, nbytes: int, lane: str) -> float:
        from benchmarks.naive_grpc import Asker

        if self._asker is None:
            self._asker = Asker(port, nbytes)
        return await self._asker.lane(lane)

    async def coding(self, payload: str, times: int) -> dict[str, list[float]]:
        from benchmarks import coding

        return coding.beside_torch(payload, times)

    async def profile(self, payload: str, times: int) -> dict[str, float]:
        from benchmarks import profile

        return await profile.parts(payload, times)

    async def in_process(self, peers: int, bare: bool = False) -> dict[str, float]:
        from benchmarks import in_process

        return await (in_process.bare_mesh if bare else in_process.mesh)(peers)

    async def discover(self, times: int) -> dict[str, list[float]]:
        from benchmarks import in_process

        return await in_process.discovery(times)

    async def load(self) -> None:
        """What `join` needs: so that several processes load it side by side."""
        from benchmarks import rounds  # noqa: F401

        tune_collector()  # once everything is loaded, as our commands do

    async def join(self, number: int, peers: int, addresses: list[str], smallest: bool = False) -> str:
        """`smallest`: as the least that averages, with nothing of ours."""
        from benchmarks import rounds

        member = rounds.smallest if smallest else rounds.RoundPeer
        self._member = member(number, peers, addresses)
        return await self._member.open()

    async def rounds(self, rounds: int) -> float:
        assert self._member is not None
        return await self._member.rounds(rounds)


async def serve(side: Side, reader: asyncio.StreamReader) -> None:
    """Until stdin ends."""
    try:
        while line := await reader.readline():
            request: dict[str, Any] = json.loads(line)
            do: Do = getattr(side, request.pop("do"))
            try:
                answer = {"ok": await do(**request)}
            except PeerlearnError as exc:
                answer = {"error": str(exc)}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    finally:
        await side.close()


async def main() -> None:
    reader = asyncio.StreamReader(limit=LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await serve(Side(), reader)


if __name__ == "__main__":
    if "--tuned" in sys.argv[1:]:  # as our own commands do; without: as in a program that embeds us
        tune_allocator()
        tune_collector()
    asyncio.run(main())
