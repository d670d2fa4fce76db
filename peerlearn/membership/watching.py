"""Watching peers: by a watch of ours, or by what they tell when they watch us; doubted when that breaks, met again, or
given up as gone."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager

from peerlearn.clock import now
from peerlearn.directory import Change, Contact, Directory
from peerlearn.errors import PeerRefused, PeerUnreachable, RefusalReason, TransferError, WireError
from peerlearn.membership.followed import Followed, FollowedPeers, Telling, Watch
from peerlearn.membership.incoming import IncomingNotices
from peerlearn.membership.introducing import Introducer, Unless, head_start, pauses
from peerlearn.membership.notices import Watchers
from peerlearn.membership.ourselves import Ourselves
from peerlearn.membership.rebinding import Rebinding
from peerlearn.ratelimit import RateLimiter
from peerlearn.tasks import Background
from peerlearn.transport.base import Transport
from peerlearn.types import Address, Card, PeerId
from peerlearn.wire.v1 import fabric_pb2 as pb


class Watcher:
    """Follows every contact that is here. An observer has no `watchers`: it tells no peer of itself.

    The directory alone judges silence: a watch is ended when its contact is no longer alive in the session watched; an
    open stream proves nothing, since a machine that lost its power leaves it open.

    One call serves two: the watching peer tells of itself by it, and is not watched in turn. Of two such calls the one
    of the lower id stays. With a group each watches the other. A peer that cannot call us then knows that we live only
    by hearing from us.
    """

    def __init__(
        self,
        me: Ourselves,
        directory: Directory,
        transport: Transport,
        introducer: Introducer,
        tasks: Background,
        *,
        rng: random.Random,
        addresses_of: Callable[[Contact], Sequence[Address]],
        watchers: Watchers | None,
        complained: Callable[[Card, str], None],
    ) -> None:
        """`addresses_of`: everywhere that a contact may be found. `complained` is told why a peer does not use our
        knowledge."""
        self._me = me
        self._timing = me.timing
        self._trust = me.trust
        self._directory = directory
        self._transport = transport
        self._introducer = introducer
        self._tasks = tasks
        self._rng = rng
        self._addresses_of = addresses_of
        self._watchers = watchers
        self._peers = FollowedPeers()
        self._incoming = IncomingNotices(me, directory, Rebinding(tasks, self._meet).start, complained)
        self._leaving = False

    # ---------------------------------------------------------------- what the others of the membership say

    def heed(self, change: Change) -> None:
        """A change of the directory."""
        contact = change.contact
        record = self._peers.find(contact.id)
        if record is not None and record.watch is not None and (not contact.alive or record.watch.is_over(contact)):
            record.end_watch(now())
        if contact.here and (record is None or not record.active):
            record = self._peers.of(contact.id)
            record.active = True
            self._tasks.supervise(
                lambda: self._follow(contact.id, record),
                name=f"follow:{contact.id[:12]}",
                lost="this peer is not watched",
            )

    def watched(self, peer: PeerId) -> None:
        """This peer has begun to watch us."""
        record = self._peers.find(peer)
        if record is not None and record.awaited is not None:
            record.awaited.set()

    def renew(self) -> None:
        """We show another certificate now: introduce ourselves with it, and watch under it."""
        for record in self._peers:
            if record.watch is not None:
                record.renewing = True
                record.end_watch(now())

    def leave(self) -> None:
        """We say goodbye: that others end their calls then is no sign that they are lost."""
        self._leaving = True

    async def hear(self, peer: PeerId, session: str, notices: AsyncIterator[pb.Notice]) -> None:
        """Until this peer, which watches us, has no more to tell."""
        telling, rate, record = Telling(session), RateLimiter(self._me.limits.calls), self._peers.of(peer)
        record.telling = telling
        self.watched(peer)
        if record.watch is not None and record.watch.tells and peer < self._me.id:
            record.watch.needless = True
            record.end_watch(now())
        try:
            async for notice in notices:
                contact = self._directory.get(peer)
                if contact is None or contact.session != session:
                    break
                await self._slowed(rate, peer)
                self._incoming.apply(contact, notice, shown=False)
        except (PeerUnreachable, PeerRefused, WireError) as exc:
            telling.why = exc.detail if isinstance(exc, TransferError) else str(exc)
        finally:
            if record.telling is telling:
                record.telling = None
                self._peers.release(peer)
            telling.over.set()

    def doubt(self, peer: PeerId) -> None:
        """It could not be asked: try whether it can be called at all. Of one that we watch our watch knows better."""
        record = self._peers.find(peer)
        watch = record.watch if record is not None else None
        if watch is not None and watch.leans and not watch.doubted:
            watch.doubted = True
            self._tasks.supervise(
                lambda: self._try(watch),
                name=f"try:{peer[:12]}",
                lost="a peer that cannot be called stays in use",
            )

    # ---------------------------------------------------------------- one peer

    async def _follow(self, peer: PeerId, record: Followed) -> None:
        waits = pauses(self._timing, self._rng)
        adrift = tried = False
        while (contact := self._directory.get(peer)) is not None:
            known = contact.reached or (not (tried or adrift) and await self._knows_us(contact, record))
            contact = self._directory.get(peer) or contact  # as it is after that wait
            if adrift or not known:
                adrift = tried = not await self._meet(contact, doubtful=tried, unless="" if adrift else "reached")
                if adrift:
                    await asyncio.sleep(next(waits))
                continue
            began = now()
            adrift = not await self._watch(contact, record)
            if not adrift or not self._reached(contact):
                continue
            if now() - began > self._timing.suspect_after:
                waits = pauses(self._timing, self._rng)
            if self._directory.get(peer) is not None:
                await asyncio.sleep(next(waits))
        # No await since it was last looked up: if it is confirmed from here on, `heed` starts to follow it anew.
        record.active = record.renewing = False
        self._peers.release(peer)

    async def _knows_us(self, contact: Contact, record: Followed) -> bool:
        """Whether a peer that has introduced itself watches us, now or soon. It has our card then, and its watch will
        bring its own: we need not introduce ourselves in turn. In a group we must, to see its certificate from this
        side."""
        if self._trust is not None or not contact.address.port:
            return False
        if not self._hears_us(contact.id):
            record.awaited = asyncio.Event()
            try:
                async with asyncio.timeout(head_start(self._timing, len(self._directory))):
                    await record.awaited.wait()
            except TimeoutError:
                return False
            finally:
                record.awaited = None
        return True

    def _hears_us(self, peer: PeerId) -> bool:
        return self._watchers is None or self._watchers.watched_by(peer)

    def _reached(self, contact: Contact) -> bool:
        current = self._directory.get(contact.id)
        return current is None or current.reached

    async def _meet(self, contact: Contact, *, doubtful: bool = False, unless: Unless = "") -> bool:
        try:
            where = self._addresses_of(contact)
            card = await self._introducer.meet(where, expect=contact.id, doubtful=doubtful, unless=unless)
        except (TransferError, WireError) as exc:
            if isinstance(exc, PeerRefused) and exc.reason is RefusalReason.LEAVING:
                self._directory.goodbye(contact.id, contact.session, exc.said)
            return False
        return card is not None

    async def _try(self, watch: Watch) -> None:
        if not await self._meet(watch.contact):
            self._directory.unreached(watch.contact.id, watch.contact.session)
        watch.doubted = False

    async def _reassure(self, contact: Contact) -> None:
        await self._meet(contact)

    # ---------------------------------------------------------------- one watch

    async def _watch(self, contact: Contact, record: Followed) -> bool:
        """Until nothing more is heard of it so. Whether that was our own doing, and it is heard of otherwise."""
        leans = record.told_in(contact.session) is not None
        watch = Watch(contact, leans=leans, tells=not leans and self._may_tell())
        try:
            listening = self._lean(watch, record) if leans else self._listen(watch, record)
            why = await listening or "it ended the watch"
        except TimeoutError:
            if watch.needless or record.renewing:
                return watch.needless
            why = "silent, or under another session"
        except PeerRefused as exc:
            why = exc.detail
            if exc.reason is RefusalReason.LEAVING:
                self._directory.goodbye(contact.id, contact.session, exc.said)
        except PeerUnreachable as exc:
            why = exc.detail
        except WireError as exc:
            why = str(exc)
        if self._reached(contact) and not self._leaving:
            self._directory.lost(contact.id, contact.session, why)
        return False

    async def _lean(self, watch: Watch, record: Followed) -> str:
        """Until it has no more to tell, by this call or by one after it, and why; TimeoutError as below. Raises
        PeerUnreachable when it cannot be called."""
        contact = watch.contact
        if not contact.reached:
            await self._transport.reach(contact.address)
            self._directory.confirm(contact.card, contact.address, now(), reached=True)
        why = ""
        async with self._while_alive(watch, record, None):
            while (telling := record.told_in(contact.session)) is not None:
                await telling.over.wait()
                why = telling.why
        return why

    async def _listen(self, watch: Watch, record: Followed) -> str:
        """Until the watch ends; TimeoutError when the directory has judged meanwhile."""
        contact, reassured, rate = watch.contact, now(), RateLimiter(self._me.limits.calls)
        record.renewing = False
        first = None if contact.reached else now() + self._timing.base
        async with (
            self._while_alive(watch, record, first) as silence,
            self._notices(contact, tells=watch.tells) as notices,
        ):
            async for notice in notices:
                if silence.when() == first is not None and record.watch is watch:
                    silence.reschedule(None)
                await self._slowed(rate, contact.id)
                self._incoming.apply(contact, notice, shown=True)
                # Half of the time after which it suspects us: one introduction may be lost.
                if now() - reassured > self._timing.suspect_after / 2 and not self._hears_us(contact.id):
                    reassured = now()
                    self._tasks.supervise(
                        lambda: self._reassure(contact),
                        name=f"reassure:{contact.id[:12]}",
                        lost="this peer may give us up",
                    )
        return ""

    @asynccontextmanager
    async def _while_alive(self, watch: Watch, record: Followed, first: float | None) -> AsyncIterator[asyncio.Timeout]:
        """Raises TimeoutError when the watch is ended from outside, or at `first` if that is not put off."""
        try:
            async with asyncio.timeout_at(first) as watch.silence:
                record.watch = watch
                yield watch.silence
        finally:
            if record.watch is watch:
                record.watch = None

    @asynccontextmanager
    async def _notices(self, contact: Contact, *, tells: bool) -> AsyncIterator[AsyncIterator[pb.Notice]]:
        """What it says; inside the block it is told of us by the same call."""
        box = self._watchers.enter(contact.id) if tells and self._watchers is not None else None
        if box is None or self._watchers is None:
            holders = self._trust.certificates_of(contact.id) if self._trust is not None else ()
            request = self._me.watch_request()
            async with aclosing(self._transport.watch(contact.address, request, certificates=holders)) as notices:
                yield notices
            return
        try:
            request = self._me.watch_request(tells=True)
            async with aclosing(self._transport.watch(contact.address, request, notices=box.notices())) as notices:
                yield notices
        finally:
            self._watchers.leave(box)

    def _may_tell(self) -> bool:
        """In a group each watches the other, so that each sees the other's certificate."""
        return self._watchers is not None and not self._watchers.full and self._trust is None

    async def _slowed(self, rate: RateLimiter, peer: PeerId) -> None:
        """A peer that says ever more is read no faster."""
        if not rate.allows(peer, now()):
            await asyncio.sleep(1 / self._me.limits.calls)
