"""A peer among others: answers introductions and watches, finds and follows peers, beats, and says goodbye."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from peerlearn.clock import now
from peerlearn.config import Limits, Timing
from peerlearn.directory import Change, Directory
from peerlearn.discovery.base import Discovery
from peerlearn.discovery.interfaces import callable_from_afar, is_any
from peerlearn.discovery.static import Static
from peerlearn.errors import PeerRefused, RefusalReason, WireError
from peerlearn.events import Record, Refused, discard
from peerlearn.membership.heartbeats import beat_on
from peerlearn.membership.introductions import Introductions, announcement
from peerlearn.membership.membership_tasks import MembershipTasks, recorder
from peerlearn.membership.notices import Watchers
from peerlearn.membership.ourselves import Ourselves, Reactions
from peerlearn.membership.own_card import OwnCard
from peerlearn.membership.problems import Problems
from peerlearn.membership.trust import Trust
from peerlearn.membership.twins import Twins
from peerlearn.security import Identity
from peerlearn.tasks import Background, Notifier, background
from peerlearn.transport.base import Caller, Transport
from peerlearn.types import Address, Card, PeerId
from peerlearn.wire.v1 import fabric_pb2 as pb

_GOODBYE = 0.5
"""Seconds that leaving waits for watchers to hear it: on a LAN it takes milliseconds, and a dead watcher must not hold
the goodbye up."""

_LOOK = 3.0
"""Seconds between two looks at the addresses of this machine: soon enough beside the seconds that a network takes to
come up, and the look costs a millisecond."""


class Membership:
    """One peer among others: the introduce() and watch() halves of a Service, and the side that asks.

    Serve it first, then enter `running`; until then, and when leaving, others are told to come back later.
    """

    def __init__(
        self,
        identity: Identity,
        directory: Directory,
        transport: Transport,
        discoveries: Sequence[Discovery],
        *,
        timing: Timing,
        limits: Limits,
        group_tag: str = "",
        record: Record = discard,
        peers: Sequence[Address] = (),
        trust: Trust | None = None,
        complained: Callable[[Card, str], None] = lambda card, why: None,
    ) -> None:
        """`group_tag`: peers of other tags are refused. `peers`: addresses to try from the start. `trust`: what the
        group is judged by; None without a group. `complained` is told
        why a peer does not use our knowledge: its card and its words as they came."""
        self.directory = directory
        self._identity = identity
        self._transport = transport
        self._discoveries = discoveries
        self._timing = timing
        self._limits = limits
        self._group_tag = group_tag
        self._peers = tuple(peers)
        self._trust = trust
        self._complained = complained
        self._record = record
        self._problems = Problems(record)
        self._say = recorder(record)
        self._turn = Notifier()
        self._own = OwnCard(identity, group_tag=group_tag, limits=limits, trust=trust)
        self._watchers = Watchers(limits.watches, version=lambda: self._own.version, card=self._own.signed)
        self._introductions = Introductions(
            directory, group_tag=group_tag, limits=limits, card=self._own.signed, trust=trust
        )
        self._twins = Twins(identity.id, timing)
        self._running: MembershipTasks | None = None
        self._leaving = False

    # ---------------------------------------------------------------- for the rest of the peer

    @property
    def card(self) -> Card:
        """As others see it."""
        return self._own.value

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps the addresses in `peers` from becoming peers, a sentence each."""
        return tuple(self._problems)

    async def changed(self) -> None:
        """Returns after the next change: a peer came, went, published, or changed its card."""
        await self._turn.wait()

    async def until(self, condition: Callable[[Directory], bool]) -> None:
        """Returns as soon as the condition holds of the directory."""
        while not condition(self.directory):
            await self._turn.wait()

    def update(self, card: Card) -> None:
        """Our card is now this one; watching peers are told. Serial, addresses, group and protocol are set here.

        Raises ConfigError when it is not a card that others would take.
        """
        self._own.become(card)
        if self._running is not None:
            self._watchers.card(self._own.signed())

    def announce_version(self, version: int) -> None:
        """A snapshot of this version can be asked for; watching peers are told. A lower one than before is ignored."""
        if version > self._own.version:
            self._own.version = version
            self._watchers.version(version)

    def doubt(self, peer: PeerId) -> None:
        """It could not be called, although it lives: look for it anew."""
        if self._running is not None:
            self._running.doubt(peer)

    def complain(self, peer: PeerId, why: str) -> None:
        """Tell this peer, if it hears of us, why its knowledge is not used here. One line of text for its owner."""
        self._watchers.complain(peer, why)

    # ---------------------------------------------------------------- lifetime

    @asynccontextmanager
    async def running(self, address: Address, card: Card) -> AsyncIterator[None]:
        """Inside the block this peer, which listens at `address`, can be found, and finds others.

        Raises NetworkError when no discovery works, and IdentityError, out of the block, when this identity turns out
        to be alive elsewhere. Leaving withdraws what was announced, then says goodbye to those who watch.
        """
        self._own.listening = address
        self.update(card)
        async with background() as tasks:
            running = self._running = self._start(tasks)
            self._twins.begin()
            unlisten = self.directory.listen(self._heed)
            try:
                if self._trust is not None:
                    self._trust.listen(self._revoked)
                    trust = self._trust
                    tasks.supervise(
                        lambda: trust.keep_up(self._timing.beat, self._renewed),
                        name="membership:trust",
                        lost="certificates and revocations are not renewed",
                    )
                tasks.supervise(
                    running.anti_entropy, name="membership:anti-entropy", lost="lost introductions are not made up for"
                )
                tasks.supervise(
                    lambda: beat_on(self.directory, self._watchers, self._timing),
                    name="membership:beats",
                    lost="no beats go out, and silence is not noticed",
                )
                if is_any(address.host):
                    tasks.supervise(
                        self._keep_addresses, name="membership:addresses", lost="the card's addresses stand still"
                    )
                async with AsyncExitStack() as stack:
                    ways = (*self._discoveries, Static(self._peers))
                    me = announcement(self._identity.id, self._group_tag, address.port, group=self._group)
                    await running.discover(stack, ways, me, told=bool(self._peers))
                    yield
            finally:
                self._leaving = True
                running.leave()
                await self._watchers.goodbye("leaving", within=_GOODBYE)
                unlisten()
                self._running = None

    async def _keep_addresses(self) -> None:
        """For ever: the card names the addresses that this machine has now, whatever interfaces come and go."""
        while True:
            await asyncio.sleep(_LOOK)
            if self._own.is_elsewhere:
                self.update(self.card)

    def _start(self, tasks: Background) -> MembershipTasks:
        me = Ourselves(
            id=self._identity.id,
            session=self.card.session,
            timing=self._timing,
            limits=self._limits,
            trust=self._trust,
        )
        return MembershipTasks(
            me,
            self.directory,
            self._transport,
            self._introductions,
            tasks,
            problems=self._problems,
            reactions=Reactions(
                unwanted=self._twins.unwanted,
                is_me=self._is_me,
                refused=self._twins.refused,
                complained=self._complained,
            ),
            watchers=self._watchers,
            follow=True,
        )

    # ---------------------------------------------------------------- what others ask of us

    async def introduce(self, introduction: pb.Introduction, caller: Caller) -> pb.Introduction:
        """Answer an introduction, and take the caller into the directory. An introduction without a card comes from an
        observer: it is answered and recorded nowhere. Raises PeerRefused.
        """
        running = self._at_home()
        try:
            card = self._read(introduction, caller)
            if card is not None and not self._is_me(card):
                self._welcome(card, caller.host)
                running.acquainted(introduction, caller.host)
        except PeerRefused as exc:
            self._record(Refused(consumer=caller.host, reason=exc.reason, detail=exc.said))
            raise
        return self._introductions.greet(caller.host)

    def _read(self, introduction: pb.Introduction, caller: Caller) -> Card | None:
        try:
            return self._introductions.read(introduction, caller.host, caller.certificates)
        except WireError as exc:
            raise PeerRefused(caller.host, RefusalReason.OTHER, str(exc)) from exc

    def vouch(self, caller: Caller, peer: PeerId, session: str) -> None:
        """Raises PeerRefused unless the caller's connection is that of this peer in this session."""
        contact = self.directory.get(peer)
        if contact is None or contact.session != session:
            raise PeerRefused(caller.host, RefusalReason.UNKNOWN_PEER, "introduce yourself first")
        if self._trust is not None:
            self._trust.vouch(caller, peer, session)

    def certificates_of(self, peer: PeerId) -> tuple[bytes, ...]:
        """SHA-256 of those that this peer may show; nothing without a group."""
        return self._trust.certificates_of(peer) if self._trust is not None else ()

    async def watch(self, request: pb.WatchRequest, caller: Caller) -> AsyncGenerator[pb.Notice, None]:
        """Our card, which says the version, then beats and news, then goodbye. Raises PeerRefused: UNKNOWN_PEER for an
        id that has not introduced itself, BUSY when too many watch."""
        running = self._at_home()
        if request.id:
            self.vouch(caller, PeerId(request.id), request.session)
        box = self._watchers.enter(request.id)
        try:
            if not request.tells:
                running.watched(PeerId(request.id))
            if self._trust is not None and self._trust.passport.revocations.signed is not None:
                box.put("revocations", pb.Notice(revocations=self._trust.passport.revocations.signed))
            async for notice in box.notices():
                yield notice
        finally:
            self._watchers.leave(box)
            if request.id and not self._watchers.watched_by(request.id):
                self._deserted(request)

    async def told(self, request: pb.WatchRequest, caller: Caller, notices: AsyncIterator[pb.Notice]) -> None:
        """Hear what a peer that watches us tells by the same call: we need not watch it. In a group we watch it all the
        same, so that its server shows its certificate."""
        contact = self.directory.get(PeerId(request.id))
        introduced = contact is not None and contact.session == request.session
        if introduced and self._trust is None and self._running is not None and not self._leaving:
            await self._running.told(PeerId(request.id), request.session, notices)

    def _at_home(self) -> MembershipTasks:
        if self._leaving:
            raise PeerRefused(self.card.name, RefusalReason.LEAVING, "this peer is leaving")
        if self._running is None:
            raise PeerRefused(self.card.name, RefusalReason.BUSY, "this peer is starting")
        return self._running

    def _welcome(self, card: Card, host: str) -> None:
        if card.id == self._identity.id:
            self._refuse_twin(card, host)
        seen = [Address(host, address.port) for address in card.addresses]
        said = callable_from_afar(dict.fromkeys((*seen, *card.addresses)), host)
        # Where it is seen to come from is tried first; one that cannot be called may still call us.
        address = said[0] if said else Address(host, 0)
        self.directory.confirm(card, address, now(), reached=False)

    def _deserted(self, request: pb.WatchRequest) -> None:
        contact = self.directory.get(PeerId(request.id))
        if contact is not None and not contact.reached:
            self.directory.lost(contact.id, request.session, "it stopped watching")

    # ---------------------------------------------------------------- what happens to us

    def _heed(self, change: Change) -> None:
        self._say(change)
        if self._trust is not None:
            self._trust.follow(change.contact)
        if not change.contact.here:
            self._watchers.end(change.contact.id)
        if self._running is not None:
            self._running.heed(change)
        self._turn.notify()

    def _revoked(self) -> None:
        """A newer list of revocations is here: act on it, and tell the watching peers."""
        if self._trust is not None:
            self._trust.enforce(self.directory)
            if self._trust.passport.revocations.signed is not None:
                self._watchers.revocations(self._trust.passport.revocations.signed)

    def _renewed(self) -> None:
        """We show another certificate from now on: our card says so, and we introduce ourselves anew."""
        self.update(self.card)
        if self._running is not None:
            self._running.renew()

    @property
    def _group(self) -> str:
        return self._trust.group if self._trust is not None else ""

    def _is_me(self, card: Card) -> bool:
        return (card.id, card.session) == (self._identity.id, self.card.session)

    def _refuse_twin(self, card: Card, host: str) -> None:
        if self._running is not None and self._twins.outranks(card, self.card):
            self._running.fail(self._twins.taken(f"alive as {card.name!r} at {host}"))
            raise PeerRefused(self.card.name, RefusalReason.LEAVING, "this peer makes way for its twin")
        detail = f"the id {card.id[:12]} is in use by {self.card.name!r}, which was there before"
        raise PeerRefused(self.card.name, RefusalReason.IDENTITY, detail)
