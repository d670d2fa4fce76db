"""What each of those who hear of us has yet to hear, whoever made the call. Only the latest counts: none piles up."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable

from peerlearn.errors import PeerRefused, RefusalReason
from peerlearn.wire.v1 import fabric_pb2 as pb


class Mailbox:
    """For one watcher; however slow it is, at most one notice of each kind waits for it."""

    def __init__(self, watcher: str) -> None:
        self.watcher = watcher
        self._waiting: dict[str, pb.Notice] = {}
        self._ended = False
        self._news = asyncio.Event()

    def put(self, kind: str, notice: pb.Notice) -> None:
        self._waiting[kind] = notice
        self._news.set()

    def end(self) -> None:
        self._ended = True
        self._news.set()

    async def notices(self) -> AsyncGenerator[pb.Notice, None]:
        """As they come, until the end; what waits then is still given."""
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
    """All who hear of us, by their watch or by ours, at most `most`. Each hears our `card` first; every beat says our
    `version` again, for those who missed its notice."""

    def __init__(self, most: int, *, version: Callable[[], int], card: Callable[[], pb.SignedCard]) -> None:
        self._most = most
        self._version = version
        self._card = card
        self._boxes: dict[Mailbox, None] = {}  # in the order of coming, so that a simulation can be repeated
        self._counts: Counter[str] = Counter()
        self._empty = asyncio.Event()

    @property
    def full(self) -> bool:
        """Whether nobody else can be told."""
        return len(self._boxes) >= self._most

    def enter(self, watcher: str) -> Mailbox:
        """Raises PeerRefused(BUSY)."""
        if self.full:
            raise PeerRefused(watcher, RefusalReason.BUSY, f"{self._most} peers watch already")
        box = Mailbox(watcher)
        box.put("card", pb.Notice(card=self._card()))
        self._boxes[box] = None
        self._counts[watcher] += 1
        return box

    def leave(self, box: Mailbox) -> None:
        del self._boxes[box]
        self._counts[box.watcher] -= 1
        if not self._counts[box.watcher]:
            del self._counts[box.watcher]
        if not self._boxes:
            self._empty.set()

    def watched_by(self, watcher: str) -> bool:
        return watcher in self._counts

    def beat(self, count: int) -> None:
        self._tell("beat", pb.Notice(beat=pb.Beat(count=count, version=self._version())))

    def version(self, version: int) -> None:
        self._tell("version", pb.Notice(version=version))

    def card(self, signed: pb.SignedCard) -> None:
        self._tell("card", pb.Notice(card=signed))

    def revocations(self, signed: pb.SignedRevocations) -> None:
        self._tell("revocations", pb.Notice(revocations=signed))

    def end(self, watcher: str) -> None:
        """End the watches of one peer: it will introduce itself again if it is still there."""
        for box in self._boxes:
            if box.watcher == watcher:
                box.end()

    async def goodbye(self, reason: str, *, within: float) -> None:
        """Tell all, and wait until it is on its way to each, or until `within` seconds have passed."""
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
