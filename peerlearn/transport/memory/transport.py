"""The fabric within one process, without sockets or threads: the same frames, the same deadlines, and a network that
can be cut, parted, slowed down and made to lose what it carries. All waiting is asyncio's, so a virtual clock can drive
it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Coroutine
from contextlib import aclosing, asynccontextmanager, suppress
from contextvars import copy_context
from dataclasses import replace
from typing import Any

from peerlearn.config import Limits, Timing
from peerlearn.errors import NetworkError, PeerRefused, PeerUnreachable
from peerlearn.tasks import background, sole_cause
from peerlearn.transport.base import Caller, Service, Traffic
from peerlearn.transport.exchange.deadline import Deadline
from peerlearn.transport.exchange.dispatcher import Dispatcher, LinkEstimates, read_introduction, read_notice
from peerlearn.transport.exchange.protocol import ask
from peerlearn.transport.faults.model import NONE, FaultInjector, Faults
from peerlearn.transport.faults.queues import SimulatedLink, SimulatedPipe
from peerlearn.types import Address
from peerlearn.wire.frames import Message
from peerlearn.wire.partial_message import PartialMessage
from peerlearn.wire.seal import sealed
from peerlearn.wire.v1 import fabric_pb2 as pb

HOST = "memory"
_CALLER = Caller(HOST)

Answering = Callable[[Dispatcher, SimulatedPipe], Coroutine[Any, Any, None]]
"""The other end of a call: what the server's task runs."""


class MemoryNetwork:
    """What lies between the transports it gives out. Addresses are memory:1, memory:2, ... in the order of asking."""

    def __init__(self, *, delay: float = 0.0, faults: Faults = NONE, seed: int = 0) -> None:
        """`delay` is short for that of `faults`. From `seed` follows which frames are hit."""
        self._injector = FaultInjector(replace(faults, delay=delay) if delay else faults, seed)
        self._served: dict[Address, _Server] = {}
        self._given = 0
        self._cut: set[Address] = set()
        self._parted: list[tuple[frozenset[Address], frozenset[Address]]] = []
        self._mended = asyncio.Event()

    def transport(self, *, timing: Timing | None = None, limits: Limits | None = None) -> "MemoryTransport":
        """A transport with an address of its own on this network."""
        self._given += 1
        return MemoryTransport(self, Address(HOST, self._given), timing or Timing(), limits or Limits())

    @property
    def faults(self) -> Faults:
        """Of every link that has none of its own; may be set at any time."""
        return self._injector.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._injector.faults = faults

    @property
    def delay(self) -> float:
        """Seconds that every frame takes to arrive; may be set at any time."""
        return self.faults.delay

    @delay.setter
    def delay(self, delay: float) -> None:
        self.faults = replace(self.faults, delay=delay)

    @property
    def seed(self) -> int:
        """The number from which it follows which frames are hit."""
        return self._injector.seed

    def between(self, source: Address, target: Address, faults: Faults | None) -> None:
        """Faults of what goes from `source` to `target`, questions and answers alike; None: those of all links."""
        self._injector.between(source, target, faults)

    def cut(self, address: Address) -> None:
        """From now on nothing passes from or to this address; calls under way hang until their stall window ends."""
        self._cut.add(address)

    def mend(self, address: Address) -> None:
        """What was held up passes."""
        self._cut.discard(address)
        self._let_pass()

    def part(self, group_a: Collection[Address], group_b: Collection[Address]) -> None:
        """From now on nothing passes between the two groups, on top of what is parted already. A cable that is pulled:
        what is under way waits, and calls end by their deadlines."""
        self._parted.append((frozenset(group_a), frozenset(group_b)))

    def join(self) -> None:
        """All that was parted meets again, and what was held up passes."""
        self._parted.clear()
        self._let_pass()

    async def passage(self, source: Address, target: Address) -> None:
        """Wait until neither end is cut off, and nothing parts them."""
        while self._blocked(source, target):
            await self._mended.wait()

    def _blocked(self, source: Address, target: Address) -> bool:
        if source in self._cut or target in self._cut:
            return True
        return any((source in a and target in b) or (source in b and target in a) for a, b in self._parted)

    def _let_pass(self) -> None:
        mended, self._mended = self._mended, asyncio.Event()
        mended.set()

    def link(self, source: Address, target: Address, kind: str) -> SimulatedLink:
        """One direction of one call of this kind."""
        return SimulatedLink(self._injector.way(source, target, kind), lambda: self.passage(source, target))


class MemoryTransport:
    """See `transport.base.Transport`. A bug in the service ends its `serving` block, as it should in a simulation."""

    def __init__(self, network: MemoryNetwork, address: Address, timing: Timing, limits: Limits) -> None:
        self._network = network
        self._address = address
        self._timing = timing
        self._limits = limits
        self._link_estimates = LinkEstimates()

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
                server = served[self._address] = _Server(
                    Dispatcher(service, self._timing, self._limits, self._link_estimates), calls
                )
                try:
                    yield self._address
                finally:
                    del served[self._address]
                    server.leave()
        except BaseExceptionGroup as group:
            raise sole_cause(group) from None  # the caller's exception comes out as it went in

    async def introduce(self, to: Address, introduction: pb.Introduction) -> pb.Introduction:
        data = sealed(introduction.SerializeToString())

        async def answer(dispatcher: Dispatcher, pipe: SimulatedPipe) -> None:
            await pipe.write(await dispatcher.introduce(await pipe.read() or b"", _CALLER))

        with Deadline(self._timing, str(to)) as deadline:
            return await self._introduced(to, data, answer, deadline)

    async def _introduced(self, to: Address, data: bytes, answer: Answering, deadline: Deadline) -> pb.Introduction:
        async with self._call("introduce", to, answer, deadline) as pipe:
            await deadline.first(pipe.write(data), "no connection")
            reply = await deadline.first(pipe.read(), "no introduction")
        if reply is None:
            raise PeerUnreachable(str(to), "it left before it introduced itself")
        return read_introduction(reply, self._limits)

    async def reach(self, to: Address) -> None:
        with Deadline(self._timing, str(to)) as connecting:
            await connecting.first(self._network.passage(self._address, to), "no connection")
        if to not in self._network._served:
            raise PeerUnreachable(str(to), "nobody serves there")

    async def watch(
        self,
        to: Address,
        request: pb.WatchRequest,
        *,
        notices: AsyncIterator[pb.Notice] | None = None,
        certificates: Collection[bytes] = (),
    ) -> AsyncGenerator[pb.Notice, None]:
        data = sealed(request.SerializeToString())

        async def answer(dispatcher: Dispatcher, pipe: SimulatedPipe) -> None:
            async with aclosing(_requests(pipe)) as requests:
                first = await anext(requests, b"")
                async with aclosing(dispatcher.watch(first, _CALLER, requests)) as heard:
                    async for notice in heard:
                        await pipe.write(notice)

        async with self._call("watch", to, answer) as pipe, background() as tasks:
            await pipe.write(data)
            if notices is not None:
                tasks.start(_tell(pipe, notices), name=f"tell:{to}")
            while (notice := await pipe.read()) is not None:
                yield read_notice(notice, self._limits)

    async def exchange(
        self,
        to: Address,
        question: Message,
        *,
        into: PartialMessage | None = None,
        certificates: Collection[bytes] = (),
    ) -> tuple[Message, Traffic]:
        async def answer(dispatcher: Dispatcher, pipe: SimulatedPipe) -> None:
            await dispatcher.exchange(pipe, Caller(HOST, connection=str(self._address)))

        async with self._call("exchange", to, answer) as pipe:
            return await ask(
                pipe,
                question,
                into if into is not None else PartialMessage(),
                peer=str(to),
                timing=self._timing,
                limits=self._limits,
                link=self._link_estimates.to(to.host),
            )

    @asynccontextmanager
    async def _call(
        self, kind: str, to: Address, answer: Answering, deadline: Deadline | None = None
    ) -> AsyncIterator[SimulatedPipe]:
        """Our end of a call whose other end runs `answer` among the server's tasks; leaving the block ends both."""
        with deadline or Deadline(self._timing, str(to)) as connecting:
            await connecting.first(self._network.passage(self._address, to), "no connection")
        server = self._network._served.get(to)
        if server is None:
            raise PeerUnreachable(str(to), "nobody serves there")
        up, down = self._network.link(self._address, to, kind), self._network.link(to, self._address, kind)
        theirs = server.start(answer, SimulatedPipe(up, down, str(self._address)))
        try:
            yield SimulatedPipe(down, up, str(to))
        finally:
            theirs.cancel()


async def _tell(pipe: SimulatedPipe, notices: AsyncIterator[pb.Notice]) -> None:
    with suppress(PeerUnreachable):  # the call is over: the task that reads it knows why
        async for notice in notices:
            await pipe.write(sealed(pb.WatchRequest(notice=notice).SerializeToString()))
        await pipe.done()


async def _requests(pipe: SimulatedPipe) -> AsyncGenerator[bytes, None]:
    while (data := await pipe.read()) is not None:
        yield data


class _Server:
    """The calls that one address is serving."""

    def __init__(self, dispatcher: Dispatcher, calls: asyncio.TaskGroup) -> None:
        self._dispatcher = dispatcher
        self._calls = calls
        self._running: dict[asyncio.Task[None], None] = {}
        self._here = copy_context()  # what it serves runs where it was opened, not where the caller is

    def start(self, answer: Answering, pipe: SimulatedPipe) -> asyncio.Task[None]:
        return self._here.run(self._start, answer, pipe)

    def _start(self, answer: Answering, pipe: SimulatedPipe) -> asyncio.Task[None]:
        task = self._calls.create_task(self._run(answer, pipe))
        self._running[task] = None
        task.add_done_callback(self._running.pop)
        return task

    def leave(self) -> None:
        for task in tuple(self._running):
            task.cancel()

    async def _run(self, answer: Answering, pipe: SimulatedPipe) -> None:
        broken: PeerRefused | PeerUnreachable | None = PeerUnreachable("", "it left in the middle of the call")
        try:
            await answer(self._dispatcher, pipe)
            broken = None
        except (PeerRefused, PeerUnreachable) as error:
            broken = error
        finally:
            pipe.end(broken)
