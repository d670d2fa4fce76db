"""Looking around without being anybody: fills a directory, and appears in nobody else's."""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from peerlearn.config import Limits, Timing
from peerlearn.directory import Change, Directory
from peerlearn.discovery.base import Discovery, Hint
from peerlearn.discovery.static import Static
from peerlearn.errors import PeerRefused
from peerlearn.events import Record, discard
from peerlearn.membership.heartbeats import beat_on
from peerlearn.membership.introductions import Introductions, announcement
from peerlearn.membership.membership_tasks import MembershipTasks, recorder
from peerlearn.membership.problems import Problems
from peerlearn.membership.trust import Trust
from peerlearn.tasks import Notifier, background
from peerlearn.transport.base import Transport
from peerlearn.types import Address, Card
from peerlearn.wire.v1 import fabric_pb2 as pb


class Observer:
    """`watch`: also notice who falls silent, leaves, or publishes. Make the directory with the own id "".

    The transport is only asked, never served.
    """

    def __init__(
        self,
        directory: Directory,
        transport: Transport,
        discoveries: Sequence[Discovery],
        *,
        timing: Timing,
        limits: Limits,
        group_tag: str = "",
        peers: Sequence[Address] = (),
        watch: bool = False,
        record: Record = discard,
        trust: Trust | None = None,
    ) -> None:
        self.directory = directory
        self._transport = transport
        self._discoveries = discoveries
        self._timing = timing
        self._limits = limits
        self._group_tag = group_tag
        self._peers = tuple(peers)
        self._watch = watch
        self._trust = trust
        self._problems = Problems(record)
        self._say = recorder(record)
        self._turn = Notifier()

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps addresses that were told from being seen, a sentence each."""
        return tuple(self._problems)

    async def changed(self) -> None:
        """Returns after the next change of the directory."""
        await self._turn.wait()

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """Inside the block the directory fills. Raises NetworkError when nobody could be found at all."""
        async with background() as tasks:
            company = MembershipTasks(
                self.directory,
                self._transport,
                Introductions(
                    self.directory, group_tag=self._group_tag, limits=self._limits, card=None, trust=self._trust
                ),
                tasks,
                me=pb.WatchRequest(session=secrets.token_hex(16)),
                timing=self._timing,
                limits=self._limits,
                problems=self._problems,
                unwanted=_nothing,
                is_me=_nobody,
                refused=_unmoved,
                watchers=None,
                follow=self._watch,
                trust=self._trust,
            )

            def heed(change: Change) -> None:
                if self._trust is not None:
                    self._trust.follow(change.contact)
                self._say(change)
                company.heed(change)
                self._turn.notify()

            async with AsyncExitStack() as stack:
                stack.callback(self.directory.listen(heed))
                if self._trust is not None:
                    self._trust.listen(partial(self._trust.enforce, self.directory))
                    tasks.start(self._trust.keep_up(self._timing.beat, company.renew), name="observer:trust")
                if self._watch:
                    tasks.start(beat_on(self.directory, None, self._timing), name="observer:beats")
                ways = (*self._discoveries, Static(self._peers))
                me = announcement("", self._group_tag, 0, group=self._trust.group if self._trust is not None else "")
                await company.discover(stack, ways, me, told=bool(self._peers))
                yield


def _nothing(hint: Hint) -> bool:
    return False


def _nobody(card: Card) -> bool:
    return False


def _unmoved(exc: PeerRefused) -> None:
    return None
