"""Turns: the answers that one peer sends share the way out, block by block, so that no consumer takes it all."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from types import TracebackType

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


class FairQueue:
    """The turns of all answers under way. Waiting consumers are served one after another, one block each.

    A block counts as in flight until the network has taken it; together they are at most `limits.in_flight_bytes`, or
    a single block. A slow consumer holds its own block, and keeps no other from a turn.
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

    def _block(self, who: str | bytes, nbytes: int) -> "_Block":
        return _Block(self, who, nbytes)

    def _begin(self, block: "_Block") -> None:
        self._busy.add(block)
        self.in_flight += block.nbytes
        block.since = asyncio.get_running_loop().time()

    def _has_room(self, nbytes: int) -> bool:
        fits = not self.in_flight or self.in_flight + nbytes <= self._limits.in_flight_bytes
        return fits and len(self._busy) < _ABREAST

    def _admit(self) -> None:
        """Give turns to waiting blocks, in order, as long as there is room."""
        while self._waiting:
            who, blocks = next(iter(self._waiting.items()))
            block = blocks[0]
            if not self._has_room(block.nbytes):
                self._look_again()
                return
            self._unqueue(block)
            if blocks:
                self._waiting.move_to_end(who)
            self._begin(block)
            assert block.turn is not None
            block.turn.set_result(None)

    def _look_again(self) -> None:
        """Consumers wait: a block that has its turn may keep it for `_PROMPT` seconds."""
        for block in self._busy:
            if block.late is None:
                block.late = asyncio.get_running_loop().call_at(block.since + _PROMPT, self._backoff, block)

    def _backoff(self, block: "_Block") -> None:
        self._busy.discard(block)
        self._admit()

    def _queue(self, block: "_Block") -> None:
        self._waiting.setdefault(block.who, deque()).append(block)
        self._admit()

    def _over(self, block: "_Block") -> None:
        if block.late is not None:
            block.late.cancel()
        self.in_flight -= block.nbytes
        self._busy.discard(block)
        if self._waiting:
            self._admit()

    def _unqueue(self, block: "_Block") -> None:
        blocks = self._waiting[block.who]
        blocks.remove(block)
        if not blocks:
            del self._waiting[block.who]


class _Block:
    """One block's turn. Hundreds come with every answer, nearly all of them at once: those cost no timer, no future."""

    __slots__ = ("_turns", "late", "nbytes", "since", "turn", "who")

    def __init__(self, turns: FairQueue, who: str | bytes, nbytes: int) -> None:
        self._turns = turns
        self.who = who
        self.nbytes = nbytes
        self.turn: asyncio.Future[None] | None = None
        self.since = 0.0
        self.late: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        turns = self._turns
        if not turns._waiting and turns._has_room(self.nbytes):
            turns._begin(self)
            return
        self.turn = asyncio.get_running_loop().create_future()
        turns._queue(self)
        try:
            await self.turn
        except BaseException:
            if self.turn.done() and not self.turn.cancelled():
                turns._over(self)
            else:
                turns._unqueue(self)
                turns._admit()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turns._over(self)
