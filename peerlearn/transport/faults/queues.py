"""The two directions of a call, as queues of frames in one process, and what the network between them does."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from peerlearn.errors import PeerRefused, PeerUnreachable
from peerlearn.transport.faults.model import LAG, Way

_ROOM = 8  # frames under way in one direction, as a socket's buffers would hold

Arrival = tuple[float, bytes | Exception | None, bool]
"""When; a frame, or the end with its error, if there is one; and whether it takes room."""


async def open_passage() -> None:
    """Nothing holds frames up."""


class SimulatedLink:
    """One direction of a call, with one reader: frames as its way lets them through, none while `passage` waits.

    `end` and `shut` must be called in the end: a frame that waits to be overtaken holds a timer.
    """

    def __init__(self, way: Way, passage: Callable[[], Awaitable[None]] = open_passage) -> None:
        self._way = way
        self._passage = passage
        self._arrivals: deque[Arrival] = deque()
        self._overtaken: list[Arrival] = []
        self._timer: asyncio.TimerHandle | None = None
        self._room = asyncio.Semaphore(_ROOM)
        self._there = asyncio.Event()
        self._open = True

    async def put(self, data: bytes) -> bool:
        """Waits for room. False when the reading end has left."""
        await self._room.acquire()
        if not self._open:
            self._room.release()
            return False
        loop = asyncio.get_running_loop()
        fate = self._way.send(data, loop.time())
        if not fate.copies:
            self._room.release()
            return True
        first, *more = fate.copies
        arrivals: list[Arrival] = [(fate.due, first, True), *((fate.due, copy, False) for copy in more)]
        if fate.overtaken and not self._overtaken:
            self._overtaken = arrivals
            self._timer = loop.call_later(LAG, self._let_go)
        else:
            self._arrive(*arrivals)
            self._let_go()
        return True

    async def get(self) -> bytes | Exception | None:
        """The next frame, once it has arrived; after the last one its error, or None, again and again."""
        await self._there.wait()
        due, data, takes_room = self._arrivals[0]
        if (late := due - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(late)
        await self._passage()
        if isinstance(data, bytes):  # an end stays: it is what every later read finds
            self._arrivals.popleft()
            if takes_room:
                self._room.release()
            if not self._arrivals:
                self._there.clear()
        return data

    def end(self, error: Exception | None) -> None:
        """Nothing more will be put; `error` is what the reading end gets to know, None for a good end."""
        if self._open:
            self._let_go()
            self._arrive((self._way.end(asyncio.get_running_loop().time()), error, False))
            self.shut()

    def shut(self) -> None:
        """Refuse more frames, and wake the task that waits for room."""
        self._let_go()
        self._open = False
        self._room.release()

    def _arrive(self, *arrivals: Arrival) -> None:
        self._arrivals.extend(arrivals)
        self._there.set()

    def _let_go(self) -> None:
        """What waited to be overtaken has been, or has waited for long enough."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._overtaken:
            arrivals, self._overtaken = self._overtaken, []
            self._arrive(*arrivals)


class SimulatedPipe:
    """One end of a call: reads from one link, writes to the other."""

    def __init__(self, incoming: SimulatedLink, outgoing: SimulatedLink, peer: str) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._peer = peer

    async def read(self) -> bytes | None:
        data = await self._incoming.get()
        if isinstance(data, PeerRefused):
            raise PeerRefused(self._peer, data.reason, data.said)
        if isinstance(data, PeerUnreachable):
            raise PeerUnreachable(self._peer, data.detail)
        if isinstance(data, Exception):
            raise data
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
