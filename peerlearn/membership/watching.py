"""Following those who are here: by a watch of ours, or by what they tell when they watch us; doubted when that breaks,
met again, or given up as gone."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

from peerlearn.clock import now
from peerlearn.config import Limits, Timing
from peerlearn.directory import Change, Contact, Directory
from peerlearn.errors import Corrupt, PeerRefused, PeerUnreachable, RefusalReason, TransferError, WireError
from peerlearn.membership.introducing import Introducer, Unless, patience, pauses
from peerlearn.membership.notices import Watchers
from peerlearn.membership.trust import Trust
from peerlearn.ratelimit import RateLimiter
from peerlearn.security import open_card
from peerlearn.tasks import Background
from peerlearn.transport.base import Transport
from peerlearn.types import Address, PeerId
from peerlearn.wire.v1 import fabric_pb2 as pb

_TOLD_SINCE = (1, 2)


class Watcher:
    """`me` is what we call ourselves when we watch; an empty one is somebody who only looks, and has no `watchers`.

    The directory alone judges silence: a watch is ended when its contact is no longer alive in the session watched; an
    open stream proves nothing, since a machine that lost its power leaves it open.

    One call serves two: whoever watches tells of itself by it, and is not watched in turn. Of two such calls the one
    of the lower id stays. With a group, and with those who speak an older version, each watches the other. One who
    cannot call us then knows that we live only by hearing from us.
    """

    def __init__(
        self,
        directory: Directory,
        transport: Transport,
        meeter: Introducer,
        tasks: Background,
        *,
        me: pb.WatchRequest,
        timing: Timing,
        limits: Limits,
        rng: random.Random,
        addresses_of: Callable[[Contact], Sequence[Address]],
        watchers: Watchers | None,
        trust: Trust | None = None,
    ) -> None:
        self._directory = directory
        self._transport = transport
        self._introducer = meeter
        self._tasks = tasks
        self._me = me
        self._timing = timing
        self._limits = limits
        self._rng = rng
        self._addresses_of = addresses_of
        self._watchers = watchers
        self._trust = trust
        self._followed: set[PeerId] = set()
        self._watches: dict[PeerId, _Watch] = {}
        self._telling: dict[PeerId, _Telling] = {}
        self._renewing: set[PeerId] = set()
        self._leaving = False
        self._awaited: dict[PeerId, asyncio.Event] = {}
        self._rebinding: dict[PeerId, bool] = {}
        """Those who are being met for another certificate; whether they have said so again since that began."""

    def heed(self, change: Change) -> None:
        """A change of the directory."""
        contact = change.contact
        watch = self._watches.get(contact.id)
        if watch is not None and (not contact.alive or watch.is_over(contact)):
            self._end(contact.id, watch)
        if contact.here and contact.id not in self._followed:
            self._followed.add(contact.id)
            self._tasks.start(self._follow(contact.id), name=f"follow:{contact.id[:12]}")

    def watched(self, peer: PeerId) -> None:
        """This peer has begun to watch us."""
        if peer in self._awaited:
            self._awaited[peer].set()

    def renew(self) -> None:
        """We show another certificate now: introduce ourselves with it, and watch under it."""
        for peer, watch in tuple(self._watches.items()):
            self._renewing.add(peer)
            self._end(peer, watch)

    def leave(self) -> None:
        """We say goodbye: that others end their calls then is no sign that they are lost."""
        self._leaving = True

    async def hear(self, peer: PeerId, session: str, notices: AsyncIterator[pb.Notice]) -> None:
        """Until this peer, which watches us, has no more to tell."""
        telling, pace = _Telling(session), RateLimiter(self._limits.calls)
        self._telling[peer] = telling
        self.watched(peer)
        watch = self._watches.get(peer)
        if watch is not None and watch.tells and peer < self._me.id:
            watch.needless = True
            self._end(peer, watch)
        try:
            async for notice in notices:
                contact = self._directory.get(peer)
                if contact is None or contact.session != session:
                    break
                await self._slowed(pace, peer)
                self._heed_told(contact, notice)
        except (PeerUnreachable, PeerRefused, WireError) as exc:
            telling.why = exc.detail if isinstance(exc, TransferError) else str(exc)
        finally:
            if self._telling.get(peer) is telling:
                del self._telling[peer]
            telling.over.set()

    def doubt(self, peer: PeerId) -> None:
        """It could not be asked: try whether it can be called at all. Of one that we watch our watch knows better."""
        watch = self._watches.get(peer)
        if watch is not None and watch.leans and not watch.doubted:
            watch.doubted = True
            self._tasks.start(self._try(watch), name=f"try:{peer[:12]}")

    async def _follow(self, peer: PeerId) -> None:
        waits = pauses(self._timing, self._rng)
        adrift = tried = False
        while (contact := self._directory.get(peer)) is not None:
            known = contact.reached or (not (tried or adrift) and await self._knows_us(contact))
            contact = self._directory.get(peer) or contact  # as it is after that wait
            if adrift or not known:
                adrift = tried = not await self._meet(contact, doubtful=tried, unless="" if adrift else "reached")
                if adrift:
                    await asyncio.sleep(next(waits))
                continue
            began = now()
            adrift = not await self._watch(contact)
            if not adrift or not self._reached(contact):
                continue
            if now() - began > self._timing.suspect_after:
                waits = pauses(self._timing, self._rng)
            if self._directory.get(peer) is not None:
                await asyncio.sleep(next(waits))
        # No await since it was last looked up: whoever confirms it from here on starts to follow it anew.
        self._followed.discard(peer)

    async def _knows_us(self, contact: Contact) -> bool:
        """Whether one who has introduced itself watches us, now or soon. It has our card then, and its watch will bring
        its own: we need not introduce ourselves in turn. In a group we must, to see its certificate from this side."""
        if self._trust is not None or not contact.address.port:
            return False
        if not self._hears_us(contact.id):
            event = self._awaited[contact.id] = asyncio.Event()
            try:
                async with asyncio.timeout(patience(self._timing, len(self._directory))):
                    await event.wait()
            except TimeoutError:
                return False
            finally:
                del self._awaited[contact.id]
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

    async def _try(self, watch: "_Watch") -> None:
        if not await self._meet(watch.contact):
            self._directory.unreached(watch.contact.id, watch.contact.session)
        watch.doubted = False

    async def _reassure(self, contact: Contact) -> None:
        await self._meet(contact)

    async def _rebind(self, contact: Contact) -> None:
        """One at a time, and once more when it has said so again meanwhile."""
        try:
            while self._rebinding.get(contact.id):
                self._rebinding[contact.id] = False
                await self._meet(contact)
        finally:
            del self._rebinding[contact.id]

    async def _watch(self, contact: Contact) -> bool:
        """Until nothing more is heard of it so. Whether that was our own doing, and it is heard of otherwise."""
        leans = self._told_by(contact) is not None
        watch = _Watch(contact, leans=leans, tells=not leans and self._may_tell(contact))
        try:
            why = await (self._lean(watch) if leans else self._listen(watch)) or "it ended the watch"
        except TimeoutError:
            if watch.needless or contact.id in self._renewing:
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

    def _told_by(self, contact: Contact) -> "_Telling | None":
        telling = self._telling.get(contact.id)
        return telling if telling is not None and telling.session == contact.session else None

    async def _lean(self, watch: "_Watch") -> str:
        """Until it has no more to tell, by this call or by one after it, and why; TimeoutError as below. Raises
        PeerUnreachable when it cannot be called."""
        contact = watch.contact
        if not contact.reached:
            await self._transport.reach(contact.address)
            self._directory.confirm(contact.card, contact.address, now(), reached=True)
        why = ""
        async with self._while_alive(watch, None):
            while (telling := self._told_by(contact)) is not None:
                await telling.over.wait()
                why = telling.why
        return why

    async def _listen(self, watch: "_Watch") -> str:
        """Until the watch ends; TimeoutError when the directory has judged meanwhile."""
        contact, reassured, pace = watch.contact, now(), RateLimiter(self._limits.calls)
        self._renewing.discard(contact.id)
        first = None if contact.reached else now() + self._timing.base
        async with (
            self._while_alive(watch, first) as silence,
            self._notices(contact, tells=watch.tells) as notices,
        ):
            async for notice in notices:
                if silence.when() == first is not None and self._watches.get(contact.id) is watch:
                    silence.reschedule(None)
                await self._slowed(pace, contact.id)
                self._heed_notice(contact, notice)
                if now() - reassured > self._timing.suspect_after / 2 and not self._hears_us(contact.id):
                    reassured = now()
                    self._tasks.start(self._reassure(contact), name=f"reassure:{contact.id[:12]}")
        return ""

    @asynccontextmanager
    async def _while_alive(self, watch: "_Watch", first: float | None) -> AsyncIterator[asyncio.Timeout]:
        """Raises TimeoutError when the watch is ended from outside, or at `first` if that is not put off."""
        peer = watch.contact.id
        try:
            async with asyncio.timeout_at(first) as watch.silence:
                self._watches[peer] = watch
                yield watch.silence
        finally:
            if self._watches.get(peer) is watch:
                del self._watches[peer]

    def _end(self, peer: PeerId, watch: "_Watch") -> None:
        del self._watches[peer]
        if watch.silence is not None:
            watch.silence.reschedule(now())

    @asynccontextmanager
    async def _notices(self, contact: Contact, *, tells: bool) -> AsyncIterator[AsyncIterator[pb.Notice]]:
        """What it says; inside the block it is told of us by the same call."""
        box = self._watchers.enter(contact.id) if tells and self._watchers is not None else None
        if box is None or self._watchers is None:
            holders = self._trust.certificates_of(contact.id) if self._trust is not None else ()
            async with aclosing(self._transport.watch(contact.address, self._me, certificates=holders)) as notices:
                yield notices
            return
        try:
            me = pb.WatchRequest(id=self._me.id, session=self._me.session, tells=True)
            async with aclosing(self._transport.watch(contact.address, me, notices=box.notices())) as notices:
                yield notices
        finally:
            self._watchers.leave(box)

    def _may_tell(self, contact: Contact) -> bool:
        room = self._watchers is not None and not self._watchers.full
        return room and self._trust is None and contact.card.protocol >= _TOLD_SINCE

    async def _slowed(self, pace: RateLimiter, peer: PeerId) -> None:
        """Who says ever more is read no faster."""
        if not pace.allows(peer, now()):
            await asyncio.sleep(1 / self._limits.calls)

    def _heed_told(self, contact: Contact, notice: pb.Notice) -> None:
        """Of somebody whom we do not watch: where it can be called we only know from its card."""
        self._heed_notice(contact, notice, shown=False)
        after = self._directory.get(contact.id)
        if after is not None and contact.taken_back(after.card):
            self._directory.unreached(contact.id, contact.session)

    def _heed_notice(self, contact: Contact, notice: pb.Notice, *, shown: bool = True) -> None:
        """`shown`: it came from the contact's address, over a connection of ours."""
        kind = notice.WhichOneof("body")
        if kind == "goodbye":
            why = notice.goodbye.reason[: self._limits.name_chars]
            self._directory.goodbye(contact.id, contact.session, why if why.isprintable() else "")
            return
        if kind == "card":
            card = open_card(notice.card, self._limits)
            if (card.id, card.session) != (contact.id, contact.session):
                raise Corrupt(f"{contact.address} now speaks for {card.name} ({card.id[:12]}), another peer or session")
            if shown and not self._reached(contact):
                self._directory.confirm(card, contact.address, now(), reached=True)
            elif self._trust is None or card.certificate_sha256 in self._trust.certificates_of(contact.id):
                self._directory.card_changed(card)
            else:
                # It says that it has another certificate now: believed when a new connection has shown it.
                if contact.id not in self._rebinding:
                    self._tasks.start(self._rebind(contact), name=f"rebind:{contact.id[:12]}")
                self._rebinding[contact.id] = True
        elif kind in ("version", "beat"):
            version = notice.version if kind == "version" else notice.beat.version
            self._directory.noticed_version(contact.id, contact.session, version)
        elif kind == "revocations" and self._trust is not None:
            self._trust.learn(notice.revocations, str(contact.address))
        # A notice of a kind that a newer minor version invented is a sign of life too.
        self._directory.beat(contact.id, contact.session, now())


@dataclass(slots=True, eq=False)
class _Watch:
    """How we hear of a contact now: by a call of ours, by which we may tell too; or leaning on one that it has made."""

    contact: Contact
    leans: bool
    tells: bool
    silence: asyncio.Timeout | None = None
    doubted: bool = False
    """It is being tried whether it can be called."""
    needless: bool = False
    """It tells us by a call of its own, which stays."""

    def is_over(self, contact: Contact) -> bool:
        """It is in another session, or not where it was called."""
        if contact.session != self.contact.session:
            return True
        return not contact.reached and (self.leans or contact.address != self.contact.address)


@dataclass(slots=True, eq=False)
class _Telling:
    """What a peer tells that watches us."""

    session: str
    over: asyncio.Event = field(default_factory=asyncio.Event)
    why: str = ""
