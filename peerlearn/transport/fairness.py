"""Whose turn it is: the answers that one peer sends share the way out, block by block, and nobody takes it all."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext

from peerlearn.config import Limits
from peerlearn.errors import PeerRefused, RefusalReason
from peerlearn.transport.base import Caller

Turn = Callable[[int], AbstractAsyncContextManager[None]]
"""Given how large the next block may be: inside, it is made and sent."""

_ABREAST = 4
"""Blocks made and sent at once. Each takes the event loop a millisecond or two: so many of them, and no more, are
ahead of a beat or a small answer."""

_PROMPT = 0.02
"""Seconds after which a block waits for its consumer only, and the others do not wait for it."""


def at_once(nbytes: int) -> AbstractAsyncContextManager[None]:
    """The turn of what is too small to wait for one."""
    return nullcontext()


class Turns:
    """Of all answers under way. Those who wait are served consumer by consumer, one block each.

    A block counts as in flight until the network has taken it; together they are at most `limits.in_flight_bytes`, or
    a single block. A slow consumer holds its own block, and keeps nobody else from a turn.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._exchanges: Counter[str | bytes] = Counter()
        self._waiting: OrderedDict[str | bytes, deque[_Block]] = OrderedDict()
        self._busy: set[_Block] = set()
        self.in_flight = 0
        """Bytes of blocks made and not taken by the network yet."""

    @property
    def under_way(self) -> int:
        """Exchanges."""
        return self._exchanges.total()

    @contextmanager
    def exchange(self, caller: Caller) -> Iterator[Turn]:
        """Inside the block an exchange with this caller. Raises PeerRefused(BUSY) when it, or all, have too many."""
        who = caller.counted_as
        if self._exchanges.total() >= self._limits.exchanges:
            busy = f"{self._limits.exchanges} exchanges are under way: try again later"
            raise PeerRefused(caller.host, RefusalReason.BUSY, busy)
        if self._exchanges[who] >= self._limits.exchanges_per_peer:
            busy = f"{self._limits.exchanges_per_peer} exchanges with you are under way: try again later"
            raise PeerRefused(caller.host, RefusalReason.BUSY, busy)
        self._exchanges[who] += 1
        try:
            yield lambda nbytes: self._block(who, nbytes)
        finally:
            self._exchanges[who] -= 1
            if not self._exchanges[who]:
                del self._exchanges[who]

    @asynccontextmanager
    async def _block(self, who: str | bytes, nbytes: int) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        block = _Block(nbytes, loop.create_future())
        self._waiting.setdefault(who, deque()).append(block)
        self._admit()
        try:
            await block.turn
            late = loop.call_later(_PROMPT, self._aside, block)
            try:
                yield
            finally:
                late.cancel()
        finally:
            self._over(who, block)

    def _admit(self) -> None:
        """Give turns to those who wait, in turn, as long as there is room."""
        while self._waiting and len(self._busy) < _ABREAST:
            who, blocks = next(iter(self._waiting.items()))
            block = blocks[0]
            if self.in_flight and self.in_flight + block.nbytes > self._limits.in_flight_bytes:
                return
            self._unqueue(who, block)
            if blocks:
                self._waiting.move_to_end(who)
            self._busy.add(block)
            self.in_flight += block.nbytes
            block.turn.set_result(None)

    def _aside(self, block: "_Block") -> None:
        self._busy.discard(block)
        self._admit()

    def _over(self, who: str | bytes, block: "_Block") -> None:
        if block.turn.done() and not block.turn.cancelled():
            self.in_flight -= block.nbytes
        else:
            self._unqueue(who, block)
        self._aside(block)

    def _unqueue(self, who: str | bytes, block: "_Block") -> None:
        blocks = self._waiting[who]
        blocks.remove(block)
        if not blocks:
            del self._waiting[who]


class _Block:
    def __init__(self, nbytes: int, turn: asyncio.Future[None]) -> None:
        self.nbytes = nbytes
        self.turn = turn
