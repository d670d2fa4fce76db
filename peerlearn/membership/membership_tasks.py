"""The tasks that a member and an observer have in common: they find peers, introduce us, and follow who is here."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, suppress

from peerlearn.directory import Change, Directory
from peerlearn.discovery.base import Announcement, Discovery
from peerlearn.errors import IdentityError, NetworkError, TransferError, WireError
from peerlearn.events import PeerChanged, Record
from peerlearn.membership.introducing import Introducer
from peerlearn.membership.introductions import Introductions
from peerlearn.membership.notices import Watchers
from peerlearn.membership.ourselves import Ourselves, Reactions
from peerlearn.membership.problems import Problems
from peerlearn.membership.resolving import Resolver
from peerlearn.membership.watching import Watcher
from peerlearn.tasks import Background
from peerlearn.transport.base import Transport
from peerlearn.types import Address, Card, PeerId
from peerlearn.wire.v1 import fabric_pb2 as pb


class MembershipTasks:
    """Keeps a directory true, by tasks that end with the block of `tasks`."""

    def __init__(
        self,
        me: Ourselves,
        directory: Directory,
        transport: Transport,
        introductions: Introductions,
        tasks: Background,
        *,
        problems: Problems,
        reactions: Reactions,
        watchers: Watchers | None,
        follow: bool,
    ) -> None:
        """`watchers`: those that hear of us; None for an observer. `follow`: notice who falls silent, leaves and
        publishes, too."""
        self._directory = directory
        self._timing = me.timing
        self._introductions = introductions
        self.tasks = tasks
        self._problems = problems
        rng = self._rng = me.rng()
        introducer = self._introducer = Introducer(
            transport, directory, introductions,
            timing=me.timing, is_me=reactions.is_me, heard=self._heard, refused=reactions.refused,
        )  # fmt: skip
        self.resolver = Resolver(
            me, directory, introducer, tasks, rng=rng, problems=problems, unwanted=reactions.unwanted
        )
        self.watcher = Watcher(
            me, directory, transport, introducer, tasks,
            rng=rng, addresses_of=self.resolver.addresses_of, watchers=watchers, complained=reactions.complained,
        )  # fmt: skip
        self._follow = follow

    def heed(self, change: Change) -> None:
        """A change of the directory."""
        self.resolver.heed(change)
        if self._follow:
            self.watcher.heed(change)

    async def anti_entropy(self) -> None:
        """For ever: introduce ourselves anew to a random contact, every half to whole `retry_most`. It makes up for
        introductions that crossed or were lost, because each introduction names the peers that its sender knows: what
        one peer knows all come to know. (Demers et al., Epidemic algorithms, PODC 1987.)"""
        while True:
            await asyncio.sleep(self._timing.retry_most * self._rng.uniform(0.5, 1.0))
            alive = self._directory.alive()
            if alive:
                contact = self._rng.choice(alive)
                with suppress(TransferError, WireError):
                    await self._introducer.meet([contact.address], expect=contact.id)

    def watched(self, peer: PeerId) -> None:
        """This peer has begun to watch us."""
        self.watcher.watched(peer)

    async def told(self, peer: PeerId, session: str, notices: AsyncIterator[pb.Notice]) -> None:
        """This peer has begun to watch us, and tells of itself by the same call."""
        await self.watcher.hear(peer, session, notices)

    def leave(self) -> None:
        """We are about to say goodbye."""
        self._introducer.leave()
        self.watcher.leave()

    def doubt(self, peer: PeerId) -> None:
        """It could not be asked."""
        self.watcher.doubt(peer)

    def renew(self) -> None:
        """Our certificate is another one now."""
        self.watcher.renew()

    def acquainted(self, introduction: pb.Introduction, host: str) -> None:
        """A peer at this host told us which peers it knows."""
        for hint in self._introductions.others(introduction, host):
            self.resolver.hinted(hint)

    async def discover(
        self, stack: AsyncExitStack, discoveries: Sequence[Discovery], me: Announcement, *, told: bool
    ) -> None:
        """Enter every discovery. Where this machine's network does not allow one, that is a problem noted if the user
        gave addresses (`told`), and a NetworkError if there is no other way to find a peer."""
        for discovery in discoveries:
            try:
                await stack.enter_async_context(discovery.announcing(me, self.resolver))
            except NetworkError as exc:
                if not told:
                    raise
                self._problems.keep(type(discovery).__name__, f"{exc}; going on with the addresses told")

    def fail(self, error: IdentityError) -> None:
        """End the block of our tasks with this error."""
        self.tasks.start(_fail(error), name="membership:twin")

    def _heard(self, card: Card, introduction: pb.Introduction, address: Address) -> None:
        self.acquainted(introduction, address.host)


async def _fail(error: IdentityError) -> None:
    raise error


def recorder(record: Record) -> Callable[[Change], None]:
    """A directory listener that records every change of life, and the new address of a peer that has moved."""
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
