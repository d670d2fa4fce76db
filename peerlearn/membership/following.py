"""Following those who are here: one watch per contact; doubted when it breaks, met again, or given up as gone."""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from peerlearn.clock import now
from peerlearn.config import Limits, Timing
from peerlearn.directory import Change, Contact, Directory
from peerlearn.errors import Corrupt, PeerRefused, PeerUnreachable, RefusalReason, TransferError, WireError
from peerlearn.membership.meeting import PATIENCE, Meeter, Unless, pauses
from peerlearn.membership.trust import Trust
from peerlearn.security import open_card
from peerlearn.tasks import Background
from peerlearn.transport.base import Transport
from peerlearn.transport.door import Pace
from peerlearn.types import Address, PeerId
from peerlearn.wire.v1 import fabric_pb2 as pb


class Follower:
    """`me` is what we call ourselves when we watch; an empty one is somebody who only looks.

    The directory alone judges silence: a watch is ended when its contact is no longer alive in the session watched.
    `watched_by` says whether a peer watches us. One that does not cannot reach us, and knows that we live only by
    hearing from us; an open stream proves nothing, since a machine that lost its power leaves it open.
    """

    def __init__(
        self,
        directory: Directory,
        transport: Transport,
        meeter: Meeter,
        tasks: Background,
        *,
        me: pb.WatchRequest,
        timing: Timing,
        limits: Limits,
        rng: random.Random,
        addresses_of: Callable[[Contact], Sequence[Address]],
        watched_by: Callable[[PeerId], bool],
        trust: Trust | None = None,
    ) -> None:
        self._directory = directory
        self._transport = transport
        self._meeter = meeter
        self._tasks = tasks
        self._me = me
        self._timing = timing
        self._limits = limits
        self._rng = rng
        self._addresses_of = addresses_of
        self._watched_by = watched_by
        self._trust = trust
        self._followed: set[PeerId] = set()
        self._watches: dict[PeerId, tuple[Contact, asyncio.Timeout]] = {}
        self._renewing: set[PeerId] = set()
        self._awaited: dict[PeerId, asyncio.Event] = {}
        self._rebinding: dict[PeerId, bool] = {}
        """Those who are being met for another certificate; whether they have said so again since that began."""

    def heed(self, change: Change) -> None:
        """A change of the directory."""
        contact = change.contact
        watch = self._watches.get(contact.id)
        if watch is not None and (not contact.alive or _is_elsewhere(contact, watch[0])):
            del self._watches[contact.id]
            watch[1].reschedule(now())
        if contact.here and contact.id not in self._followed:
            self._followed.add(contact.id)
            self._tasks.start(self._follow(contact.id), name=f"follow:{contact.id[:12]}")

    def watched(self, peer: PeerId) -> None:
        """This peer has begun to watch us."""
        if peer in self._awaited:
            self._awaited[peer].set()

    def renew(self) -> None:
        """We show another certificate now: introduce ourselves with it, and watch under it."""
        watches, self._watches = self._watches, {}
        for peer, (_, watch) in watches.items():
            self._renewing.add(peer)
            watch.reschedule(now())

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
            await self._watch(contact)
            adrift = True
            if not self._reached(contact):
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
        if not self._watched_by(contact.id):
            event = self._awaited[contact.id] = asyncio.Event()
            try:
                async with asyncio.timeout(PATIENCE * self._timing.retry_first):
                    await event.wait()
            except TimeoutError:
                return False
            finally:
                del self._awaited[contact.id]
        return True

    def _reached(self, contact: Contact) -> bool:
        current = self._directory.get(contact.id)
        return current is None or current.reached

    async def _meet(self, contact: Contact, *, doubtful: bool = False, unless: Unless = "") -> bool:
        try:
            where = self._addresses_of(contact)
            card = await self._meeter.meet(where, expect=contact.id, doubtful=doubtful, unless=unless)
        except (TransferError, WireError) as exc:
            if isinstance(exc, PeerRefused) and exc.reason is RefusalReason.LEAVING:
                self._directory.goodbye(contact.id, contact.session, exc.said)
            return False
        return card is not None

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

    async def _watch(self, contact: Contact) -> None:
        try:
            await self._listen(contact)
            why = "it ended the watch"
        except TimeoutError:
            if contact.id in self._renewing:
                return
            why = "silent, or under another session"
        except PeerRefused as exc:
            why = exc.detail
            if exc.reason is RefusalReason.LEAVING:
                self._directory.goodbye(contact.id, contact.session, exc.said)
        except PeerUnreachable as exc:
            why = exc.detail
        except WireError as exc:
            why = str(exc)
        if self._reached(contact):
            self._directory.lost(contact.id, contact.session, why)

    async def _listen(self, contact: Contact) -> None:
        """Until the watch ends; TimeoutError when the directory has judged meanwhile."""
        reassured, pace = now(), Pace(self._limits.calls)
        self._renewing.discard(contact.id)
        try:
            first = None if contact.reached else now() + self._timing.base
            async with asyncio.timeout_at(first) as silence:
                self._watches[contact.id] = watch = (contact, silence)
                async with aclosing(self._watch_of(contact)) as notices:
                    async for notice in notices:
                        if silence.when() == first is not None and self._watches.get(contact.id) is watch:
                            silence.reschedule(None)
                        if not pace.allows(contact.id, now()):
                            await asyncio.sleep(1 / self._limits.calls)  # who says ever more is read no faster
                        self._heed_notice(contact, notice)
                        if now() - reassured > self._timing.suspect_after / 2 and not self._watched_by(contact.id):
                            reassured = now()
                            self._tasks.start(self._reassure(contact), name=f"reassure:{contact.id[:12]}")
        finally:
            self._watches.pop(contact.id, None)

    def _watch_of(self, contact: Contact) -> AsyncGenerator[pb.Notice, None]:
        holders = self._trust.certificates_of(contact.id) if self._trust is not None else ()
        return self._transport.watch(contact.address, self._me, certificates=holders)

    def _heed_notice(self, contact: Contact, notice: pb.Notice) -> None:
        kind = notice.WhichOneof("body")
        if kind == "goodbye":
            why = notice.goodbye.reason[: self._limits.name_chars]
            self._directory.goodbye(contact.id, contact.session, why if why.isprintable() else "")
            return
        if kind == "card":
            card = open_card(notice.card, self._limits)
            if (card.id, card.session) != (contact.id, contact.session):
                raise Corrupt(f"{contact.address} now speaks for {card.name} ({card.id[:12]}), another peer or session")
            if not self._reached(contact):
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


def _is_elsewhere(contact: Contact, watched: Contact) -> bool:
    """Another session of it, or at an address that the one watched has been given up for."""
    return contact.session != watched.session or (not contact.reached and contact.address != watched.address)
