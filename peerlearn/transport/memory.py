"""The fabric within one process, without sockets or threads: the same frames, the same deadlines, and a network that
can be cut. All waiting is asyncio's, so a virtual clock can drive it."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any

from peerlearn.config import Limits, Timing
from peerlearn.errors import NetworkError, PeerRefused, PeerUnreachable
from peerlearn.tasks import sole_cause
from peerlearn.transport.base import Caller, Service, Traffic
from peerlearn.transport.desk import Desk, Links, read_introduction, read_notice
from peerlearn.transport.exchange import ask
from peerlearn.transport.patience import Patience
from peerlearn.types import Address
from peerlearn.wire.frames import Message
from peerlearn.wire.v1 import fabric_pb2 as pb

HOST = "memory"
_CALLER = Caller(HOST)
_ROOM = 8  # frames under way in one direction, as a socket's buffers would hold


Answering = Callable[[Desk, "_MemoryPipe"], Coroutine[Any, Any, None]]
"""The other end of a call: what the server's task runs."""


class MemoryNetwork:
    """What lies between the transports it gives out. Addresses are memory:1, memory:2, ... in the order of asking."""

    def __init__(self, *, delay: float = 0.0) -> None:
        self.delay = delay
        """Seconds that every frame takes to arrive."""
        self._served: dict[Address, _Server] = {}
        self._given = 0
        self._cut: set[Address] = set()
        self._mended = asyncio.Event()

    def transport(self, *, timing: Timing | None = None, limits: Limits | None = None) -> "MemoryTransport":
        self._given += 1
        return MemoryTransport(self, Address(HOST, self._given), timing or Timing(), limits or Limits())

    def cut(self, address: Address) -> None:
        """From now on nothing passes from or to this address; calls under way hang until their stall window ends."""
        self._cut.add(address)

    def mend(self, address: Address) -> None:
        """What was held up passes."""
        self._cut.discard(address)
        mended, self._mended = self._mended, asyncio.Event()
        mended.set()

    async def passage(self, *ends: Address) -> None:
        """Wait until neither end is cut off."""
        while not self._cut.isdisjoint(ends):
            await self._mended.wait()


class MemoryTransport:
    """See `transport.base.Transport`. A bug in the service ends its `serving` block, as it should in a simulation."""

    def __init__(self, network: MemoryNetwork, address: Address, timing: Timing, limits: Limits) -> None:
        self._network = network
        self._address = address
        self._timing = timing
        self._limits = limits
        self._links = Links()

    @property
    def address(self) -> Address:
        """Where this transport serves, known before it does: memory addresses are never taken by others."""
        return self._address

    @asynccontextmanager
    async def serving(self, service: Service) -> AsyncIterator[Address]:
        served = self._network._served
        if self._address in served:
            raise NetworkError(f"{self._address} is being served already: ask the network for another transport")
        try:
            async with asyncio.TaskGroup() as calls:
                server = served[self._address] = _Server(Desk(service, self._timing, self._limits, self._links), calls)
                try:
                    yield self._address
                finally:
                    del served[self._address]
                    server.leave()
        except BaseExceptionGroup as group:
            raise sole_cause(group) from None  # the caller's exception comes out as it went in

    async def introduce(self, to: Address, introduction: pb.Introduction) -> pb.Introduction:
        data = introduction.SerializeToString()

        async def answer(desk: Desk, pipe: "_MemoryPipe") -> None:
            request = await pipe.read()
            await pipe.write(await desk.introduce(request or b"", _CALLER))

        patience = Patience(self._timing, str(to))
        async with self._call(to, answer, patience) as pipe:
            await patience.first(pipe.write(data), "no connection")
            reply = await patience.first(pipe.read(), "no introduction")
        if reply is None:
            raise PeerUnreachable(str(to), "it left before it introduced itself")
        return read_introduction(reply, self._limits)

    async def watch(
        self, to: Address, request: pb.WatchRequest, *, certificates: Collection[bytes] = ()
    ) -> AsyncGenerator[pb.Notice, None]:
        data = request.SerializeToString()

        async def answer(desk: Desk, pipe: "_MemoryPipe") -> None:
            async with aclosing(desk.watch(data, _CALLER)) as notices:
                async for notice in notices:
                    await pipe.write(notice)

        async with self._call(to, answer, Patience(self._timing, str(to))) as pipe:
            while (notice := await pipe.read()) is not None:
                yield read_notice(notice, self._limits)

    async def exchange(
        self, to: Address, question: Message, *, certificates: Collection[bytes] = ()
    ) -> tuple[Message, Traffic]:
        async def answer(desk: Desk, pipe: "_MemoryPipe") -> None:
            await desk.exchange(pipe, _CALLER)

        async with self._call(to, answer, Patience(self._timing, str(to))) as pipe:
            return await ask(
                pipe,
                question,
                peer=str(to),
                timing=self._timing,
                limits=self._limits,
                link=self._links.to(to.host),
            )

    @asynccontextmanager
    async def _call(self, to: Address, answer: Answering, patience: Patience) -> AsyncIterator["_MemoryPipe"]:
        """Our end of a call whose other end runs `answer` among the server's tasks; leaving the block ends both."""
        await patience.first(self._network.passage(self._address, to), "no connection")
        server = self._network._served.get(to)
        if server is None:
            raise PeerUnreachable(str(to), "nobody serves there")
        up, down = _Lane(self._network, self._address, to), _Lane(self._network, to, self._address)
        theirs = server.start(answer, _MemoryPipe(up, down, str(self._address)))
        try:
            yield _MemoryPipe(down, up, str(to))
        finally:
            theirs.cancel()


class _Server:
    """The calls that one address is serving."""

    def __init__(self, desk: Desk, calls: asyncio.TaskGroup) -> None:
        self._desk = desk
        self._calls = calls
        self._running: set[asyncio.Task[None]] = set()

    def start(self, answer: Answering, pipe: "_MemoryPipe") -> asyncio.Task[None]:
        task = self._calls.create_task(self._run(answer, pipe))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def leave(self) -> None:
        for task in self._running:
            task.cancel()

    async def _run(self, answer: Answering, pipe: "_MemoryPipe") -> None:
        broken: PeerRefused | PeerUnreachable | None = PeerUnreachable("", "it left in the middle of the call")
        try:
            await answer(self._desk, pipe)
            broken = None
        except (PeerRefused, PeerUnreachable) as error:
            broken = error
        finally:
            pipe.end(broken)


class _MemoryPipe:
    """One end of a call: reads from one lane, writes to the other."""

    def __init__(self, incoming: "_Lane", outgoing: "_Lane", peer: str) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._peer = peer

    async def read(self) -> bytes | None:
        data = await self._incoming.get()
        if isinstance(data, PeerRefused):
            raise PeerRefused(self._peer, data.reason, data.said)
        if isinstance(data, PeerUnreachable):
            raise PeerUnreachable(self._peer, data.detail)
        return data

    async def write(self, data: bytes) -> None:
        if not await self._outgoing.put(data):
            raise PeerUnreachable(self._peer, "it ended the call")

    async def done(self) -> None:
        self._outgoing.end(None)

    def end(self, error: PeerRefused | PeerUnreachable | None) -> None:
        """Both directions: nothing more is read here, and the other end gets to know."""
        self._outgoing.end(error)
        self._incoming.shut()


class _Lane:
    """One direction of a call: frames in order, each `delay` late, none past a cut."""

    def __init__(self, network: MemoryNetwork, source: Address, target: Address) -> None:
        self._network = network
        self._ends = (source, target)
        self._frames: deque[tuple[float, bytes | PeerRefused | PeerUnreachable | None]] = deque()
        self._room = asyncio.Semaphore(_ROOM)
        self._there = asyncio.Event()
        self._open = True

    async def put(self, data: bytes) -> bool:
        """False when nobody reads any more."""
        await self._room.acquire()
        if not self._open:
            self._room.release()
            return False
        self._append(data)
        return True

    async def get(self) -> bytes | PeerRefused | PeerUnreachable | None:
        await self._there.wait()
        due, data = self._frames[0]
        if (late := due - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(late)
        await self._network.passage(*self._ends)
        if isinstance(data, bytes):  # an end stays: it is what every later read finds
            self._frames.popleft()
            self._room.release()
            if not self._frames:
                self._there.clear()
        return data

    def end(self, error: PeerRefused | PeerUnreachable | None) -> None:
        if self._open:
            self._append(error)
            self.shut()

    def shut(self) -> None:
        """Refuse more frames, and wake who waits for room."""
        self._open = False
        self._room.release()

    def _append(self, data: bytes | PeerRefused | PeerUnreachable | None) -> None:
        self._frames.append((asyncio.get_running_loop().time() + self._network.delay, data))
        self._there.set()
