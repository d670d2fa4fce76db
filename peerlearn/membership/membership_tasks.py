"""What somebody who takes part and somebody who only looks have in common: seeking, meeting, following."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, suppress

from peerlearn.config import Limits, Timing
from peerlearn.directory import Change, Directory
from peerlearn.discovery.base import Announcement, Discovery, Hint
from peerlearn.errors import NetworkError, PeerRefused, TransferError, WireError
from peerlearn.events import PeerChanged, Record
from peerlearn.membership.introducing import Introducer
from peerlearn.membership.introductions import Introductions
from peerlearn.membership.notices import Watchers
from peerlearn.membership.problems import Problems
from peerlearn.membership.resolving import Resolver
from peerlearn.membership.trust import Trust
from peerlearn.membership.watching import Watcher
from peerlearn.tasks import Background
from peerlearn.transport.base import Transport
from peerlearn.types import Address, Card, PeerId
from peerlearn.wire.v1 import fabric_pb2 as pb


class MembershipTasks:
    """Keeps a directory true while its tasks run. Opened by `open`, ends with the tasks it was given."""

    def __init__(
        self,
        directory: Directory,
        transport: Transport,
        greeter: Introductions,
        tasks: Background,
        *,
        me: pb.WatchRequest,
        timing: Timing,
        limits: Limits,
        problems: Problems,
        unwanted: Callable[[Hint], bool],
        is_me: Callable[[Card], bool],
        refused: Callable[[PeerRefused], None],
        watchers: Watchers | None,
        follow: bool,
        trust: Trust | None = None,
    ) -> None:
        self._directory = directory
        self._timing = timing
        self._introductions = greeter
        self._problems = problems
        # Seeded by the session: no two peers try in step, and a run under a virtual clock can be repeated.
        rng = self._rng = random.Random(me.session)
        meeter = self._introducer = Introducer(
            transport, directory, greeter, timing=timing, is_me=is_me, heard=self._heard, refused=refused
        )
        self.resolver = Resolver(
            me.id,
            directory,
            meeter,
            tasks,
            timing=timing,
            limits=limits,
            rng=rng,
            problems=problems,
            unwanted=unwanted,
        )
        self._watcher = Watcher(
            directory,
            transport,
            meeter,
            tasks,
            me=me,
            timing=timing,
            limits=limits,
            rng=rng,
            addresses_of=self.resolver.addresses_of,
            watchers=watchers,
            trust=trust,
        )
        self._follow = follow

    def heed(self, change: Change) -> None:
        """A change of the directory."""
        self.resolver.heed(change)
        if self._follow:
            self._watcher.heed(change)

    async def anti_entropy(self) -> None:
        """For ever: introduce ourselves anew to one of those here, drawn by lot, now and then. Introductions that
        crossed, or were lost with a part of the network, are made up for: whom one knows all come to know."""
        while True:
            await asyncio.sleep(self._timing.retry_most * self._rng.uniform(0.5, 1.0))
            alive = self._directory.alive()
            if alive:
                contact = self._rng.choice(alive)
                with suppress(TransferError, WireError):
                    await self._introducer.meet([contact.address], expect=contact.id)

    def watched(self, peer: PeerId) -> None:
        """This peer has begun to watch us."""
        self._watcher.watched(peer)

    async def told(self, peer: PeerId, session: str, notices: AsyncIterator[pb.Notice]) -> None:
        """This peer has begun to watch us, and tells of itself by the same call."""
        await self._watcher.hear(peer, session, notices)

    def leave(self) -> None:
        """We are about to say goodbye."""
        self._introducer.leave()
        self._watcher.leave()

    def doubt(self, peer: PeerId) -> None:
        """It could not be asked."""
        self._watcher.doubt(peer)

    def renew(self) -> None:
        """Our certificate is another one now."""
        self._watcher.renew()

    def acquainted(self, introduction: pb.Introduction, host: str) -> None:
        """Somebody at this host told us whom they know."""
        for hint in self._introductions.others(introduction, host):
            self.resolver.hinted(hint)

    async def discover(
        self, stack: AsyncExitStack, discoveries: Sequence[Discovery], me: Announcement, *, told: bool
    ) -> None:
        """Enter every discovery. One that this machine's network does not allow is a problem noted when addresses were
        told, and an error when it was the only way to find anybody."""
        for discovery in discoveries:
            try:
                await stack.enter_async_context(discovery.announcing(me, self.resolver))
            except NetworkError as exc:
                if not told:
                    raise
                self._problems.keep(type(discovery).__name__, f"{exc}; going on with the addresses told")

    def _heard(self, card: Card, introduction: pb.Introduction, address: Address) -> None:
        self.acquainted(introduction, address.host)


def recorder(record: Record) -> Callable[[Change], None]:
    """A directory listener that states every change of life, and where somebody is now who was elsewhere before."""
    told: dict[PeerId, Address] = {}

    def heed(change: Change) -> None:
        contact = change.contact
        if change.of_life:
            status, why = change.what, change.why
        elif contact.reached and told.get(contact.id, contact.address) != contact.address:
            status, why = "moved", f"found at {contact.address}"
        else:
            return
        if contact.here:
            told[contact.id] = contact.address
        else:
            told.pop(contact.id, None)
        record(PeerChanged(peer=contact.id, name=contact.name, status=status, address=str(contact.address), why=why))

    return heed
