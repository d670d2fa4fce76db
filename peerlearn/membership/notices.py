"""Notices about this peer that wait for each watching peer. Only the latest of each kind waits, so none pile up."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable

from peerlearn.errors import PeerRefused, RefusalReason
from peerlearn.wire.v1 import fabric_pb2 as pb


class Mailbox:
    """Notices for one watcher. At most one notice of each kind waits, however slow the watcher is."""

    def __init__(self, watcher: str) -> None:
        self.watcher = watcher
        self._waiting: dict[str, pb.Notice] = {}
        self._ended = False
        self._news = asyncio.Event()

    def put(self, kind: str, notice: pb.Notice) -> None:
        """Add this notice, in place of a waiting one of its kind."""
        self._waiting[kind] = notice
        self._news.set()

    def end(self) -> None:
        """Add no further notice; those that wait are still given."""
        self._ended = True
        self._news.set()

    async def notices(self) -> AsyncGenerator[pb.Notice, None]:
        """The notices as they come, until `end` is called; those that wait then are still given."""
        while True:
            waiting, self._waiting = self._waiting, {}
            for notice in waiting.values():
                yield notice
            if not self._waiting:
                if self._ended:
                    return
                self._news.clear()
                await self._news.wait()


class Watchers:
    """Peers that get our notices, at most `most`, on a stream that they or we have opened. The first notice is our
    `card`. Every beat repeats our `version`, for peers that missed its notice. Lives on the event loop."""

    def __init__(self, most: int, *, version: Callable[[], int], card: Callable[[], pb.SignedCard]) -> None:
        self._most = most
        self._version = version
        self._card = card
        self._boxes: dict[Mailbox, None] = {}  # in the order of coming, so that a simulation can be repeated
        self._counts: Counter[str] = Counter()
        self._empty = asyncio.Event()

    @property
    def full(self) -> bool:
        """True if no further peer can watch."""
        return len(self._boxes) >= self._most

    def enter(self, watcher: str) -> Mailbox:
        """The mailbox of a new watcher. Raises PeerRefused(BUSY) if too many watch already."""
        if self.full:
            raise PeerRefused(watcher, RefusalReason.BUSY, f"{self._most} peers watch already")
        box = Mailbox(watcher)
        box.put("card", pb.Notice(card=self._card()))
        self._boxes[box] = None
        self._counts[watcher] += 1
        return box

    def leave(self, box: Mailbox) -> None:
        """Remove a watcher that has stopped watching."""
        del self._boxes[box]
        self._counts[box.watcher] -= 1
        if not self._counts[box.watcher]:
            del self._counts[box.watcher]
        if not self._boxes:
            self._empty.set()

    def watched_by(self, watcher: str) -> bool:
        """True if this peer watches us."""
        return watcher in self._counts

    def beat(self, count: int) -> None:
        """Send a sign of life, beat number `count`."""
        self._tell("beat", pb.Notice(beat=pb.Beat(count=count, version=self._version())))

    def version(self, version: int) -> None:
        """Announce that a snapshot of this version can be asked for."""
        self._tell("version", pb.Notice(version=version))

    def card(self, signed: pb.SignedCard) -> None:
        """Send our new card."""
        self._tell("card", pb.Notice(card=signed))

    def revocations(self, signed: pb.SignedRevocations) -> None:
        """Send a newer list of revocations."""
        self._tell("revocations", pb.Notice(revocations=signed))

    def complain(self, watcher: str, why: str) -> None:
        """Tell this peer, if it watches us, why its knowledge is not used here."""
        for box in self._boxes:
            if box.watcher == watcher:
                box.put("complaint", pb.Notice(complaint=why))

    def end(self, watcher: str) -> None:
        """End the watches of one peer. It introduces itself again if it is still there."""
        for box in self._boxes:
            if box.watcher == watcher:
                box.end()

    async def goodbye(self, reason: str, *, within: float) -> None:
        """Say goodbye to all watchers, and wait until every stream has taken it, at most `within` seconds."""
        self._tell("goodbye", pb.Notice(goodbye=pb.Goodbye(reason=reason)))
        for box in self._boxes:
            box.end()
        try:
            async with asyncio.timeout(within):
                while self._boxes:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            return

    def _tell(self, kind: str, notice: pb.Notice) -> None:
        for box in self._boxes:
            box.put(kind, notice)
