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

from peerlearn.bench import memory
from peerlearn.collector import tune_collector
from peerlearn.errors import PeerlearnError
from peerlearn.transport.allocator import tune_allocator

if TYPE_CHECKING:
    from peerlearn.bench.anybody import Asker
    from peerlearn.bench.consumer import Consumer
    from peerlearn.bench.provider import Provider
    from peerlearn.bench.rounds import Member
    from peerlearn.bench.smallest import SmallestMember

LINE_BYTES = 1 << 24
Do = Callable[..., Awaitable[Any]]


class Side:
    """What one process may be told to do. Results are plain JSON."""

    def __init__(self) -> None:
        self._provider: Provider | None = None
        self._consumer: Consumer | None = None
        self._member: Member | SmallestMember | None = None
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
        from peerlearn.bench.provider import Provider

        self._provider = Provider()
        self._ports = await self._provider.open(host, group, link=link)
        return self._ports

    async def ports(self) -> dict[str, int]:
        return self._ports

    async def hold(self, payload: str, raw: bool = True) -> int:
        """Make it; the bytes of its body. `raw`: also as the limits' lanes send it."""
        from peerlearn.bench.provider import encoded

        assert self._provider is not None
        shelf = self._provider.shelf
        size = encoded(shelf.hold(payload)).header.body_bytes
        return len(shelf.body(payload)) if raw else size

    async def drop(self, payload: str) -> None:
        assert self._provider is not None
        self._provider.shelf.drop(payload)

    # ---------------------------------------------------------------- consumer

    async def consume(self, ports: dict[str, int], host: str, group: str) -> None:
        from peerlearn.bench.consumer import Consumer

        self._consumer = Consumer(ports, host, group)

    async def lane(self, name: str, payload: str = "", nbytes: int = 0, times: int = 1) -> list[float]:
        assert self._consumer is not None
        return [await self._consumer.lane(name, payload, nbytes) for _ in range(times)]

    async def crowd(self, payload: str, nbytes: int, consumers: int, lane: str) -> list[float]:
        from peerlearn.bench import crowd

        assert self._consumer is not None
        return await crowd.at_once(self._consumer, payload, nbytes, consumers, lane)

    async def notices(self, count: int, bare: bool = False, beside: str = "") -> list[float]:
        from peerlearn.bench import crowd

        assert self._consumer is not None
        return await crowd.notices(self._consumer, count, bare=bare, beside=beside)

    async def small_beside(self, small: str, big: str, times: int) -> list[float]:
        from peerlearn.bench import crowd

        assert self._consumer is not None
        return await crowd.small_beside(self._consumer, small, big, times)

    async def endure(self, payload: str, times: int, how: str = "whole") -> dict[str, int]:
        from peerlearn.bench import endurance

        assert self._consumer is not None
        return await endurance.exchanges(self._consumer, payload, times, how)

    # ---------------------------------------------------------------- sides of their own kind

    async def serve_as_anybody(self, nbytes: int) -> int:
        """The port."""
        from peerlearn.bench import anybody

        return await self._stack.enter_async_context(anybody.serving(nbytes))

    async def ask_as_anybody(self, port: int, nbytes: int, lane: str) -> float:
        from peerlearn.bench.anybody import Asker

        if self._asker is None:
            self._asker = Asker(port, nbytes)
        return await self._asker.lane(lane)

    async def coding(self, payload: str, times: int) -> dict[str, list[float]]:
        from peerlearn.bench import coding

        return coding.beside_torch(payload, times)

    async def profile(self, payload: str, times: int) -> dict[str, float]:
        from peerlearn.bench import profile

        return await profile.parts(payload, times)

    async def village(self, peers: int, bare: bool = False) -> dict[str, float]:
        from peerlearn.bench import village

        return await (village.bare_mesh if bare else village.mesh)(peers)

    async def discover(self, times: int) -> dict[str, list[float]]:
        from peerlearn.bench import village

        return await village.discovery(times)

    async def load(self) -> None:
        """What `join` needs: so that several processes load it side by side."""
        from peerlearn.bench import rounds  # noqa: F401

        tune_collector()  # once everything is loaded, as our commands do

    async def join(self, number: int, peers: int, addresses: list[str], smallest: bool = False) -> str:
        """`smallest`: as the least that averages, with nothing of ours."""
        from peerlearn.bench import rounds

        member = rounds.smallest if smallest else rounds.Member
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
