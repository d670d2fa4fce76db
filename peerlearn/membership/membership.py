"""Taking part: answers introductions and watches, seeks and follows others, beats, and says goodbye."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from peerlearn.clock import now
from peerlearn.config import Limits, Timing
from peerlearn.directory import Change, Directory
from peerlearn.discovery.base import Discovery, Hint
from peerlearn.discovery.interfaces import callable_from_afar, is_any, own_hosts
from peerlearn.discovery.static import Static
from peerlearn.errors import ConfigError, IdentityError, PeerRefused, RefusalReason, WireError
from peerlearn.events import Record, Refused, discard
from peerlearn.membership.heartbeats import beat_on
from peerlearn.membership.introductions import EXCHANGE, Introductions, announcement
from peerlearn.membership.membership_tasks import MembershipTasks, recorder
from peerlearn.membership.notices import Watchers
from peerlearn.membership.problems import Problems
from peerlearn.membership.resolving import MEMORY
from peerlearn.membership.trust import Trust
from peerlearn.security import Identity, sign_card
from peerlearn.tasks import Background, Notifier, background
from peerlearn.transport.base import Caller, Transport
from peerlearn.types import PROTOCOL, Address, Card, PeerId
from peerlearn.wire.cards import card_from_pb, card_to_pb
from peerlearn.wire.v1 import fabric_pb2 as pb

_GOODBYE = 0.5  # seconds that leaving waits for watchers to hear it
_DOUBTED_FOR = 3  # silences: a slow start, or a network that comes late, must not keep a twin from being found out
_LOOK = 3.0  # seconds between two looks at the addresses of this machine


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
    ) -> None:
        self.directory = directory
        self._identity = identity
        self._transport = transport
        self._discoveries = discoveries
        self._timing = timing
        self._limits = limits
        self._group_tag = group_tag
        self._peers = tuple(peers)
        self._trust = trust
        self._record = record
        self._problems = Problems(record)
        self._say = recorder(record)
        self._turn = Notifier()
        self._watchers = Watchers(limits.watches, version=lambda: self._version, card=self._current)
        self._introductions = Introductions(
            directory, group_tag=group_tag, limits=limits, card=self._current, trust=trust
        )
        self._card = Card(id=identity.id, name=identity.id[:12], session=secrets.token_hex(16))
        self._address = Address("", 0)
        self._signed: pb.SignedCard | None = None
        self._version = 0
        self._open: tuple[Background, MembershipTasks] | None = None
        self._began = 0.0
        self._doubted: dict[str, float] = {}
        self._leaving = False

    # ---------------------------------------------------------------- for the rest of the peer

    @property
    def card(self) -> Card:
        """As others see it."""
        return self._card

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps addresses that were told from becoming peers, a sentence each."""
        return tuple(self._problems)

    async def changed(self) -> None:
        """Returns after the next change: somebody came, went, published, or changed its card."""
        await self._turn.wait()

    async def until(self, condition: Callable[[Directory], bool]) -> None:
        """Returns as soon as the condition holds of the directory."""
        while not condition(self.directory):
            await self._turn.wait()

    def update(self, card: Card) -> None:
        """Our card is now this one; those who watch are told. Serial, addresses, group and protocol are set here.

        Raises ConfigError when it is not a card that others would take.
        """
        if card.id != self._identity.id:
            raise ConfigError(f"a card of {card.id[:12]} cannot be that of the peer {self._identity.id[:12]}")
        self._version = max(self._version, card.version)
        self._card = self._stamped(card)
        self._signed = None
        try:
            card_from_pb(card_to_pb(self._card), self._limits)
        except WireError as exc:
            raise ConfigError(f"others would not take this peer's card: {exc}") from exc
        if self._open is not None:
            self._watchers.card(self._current())

    def announce_version(self, version: int) -> None:
        """A snapshot of this version can be asked for; those who watch are told. Lower ones than before are ignored."""
        if version > self._version:
            self._version = version
            self._watchers.version(version)

    def doubt(self, peer: PeerId) -> None:
        """It could not be called, although it lives: look for it anew."""
        if self._open is not None:
            self._open[1].doubt(peer)

    # ---------------------------------------------------------------- lifetime

    @asynccontextmanager
    async def running(self, address: Address, card: Card) -> AsyncIterator[None]:
        """Inside the block this peer, which listens at `address`, can be found, and finds others.

        Raises NetworkError when no discovery works, and IdentityError, out of the block, when this identity turns out
        to be alive elsewhere. Leaving withdraws what was announced, then says goodbye to those who watch.
        """
        self._address = address
        self.update(card)
        async with background() as tasks:
            tasks_of_membership = self._tasks_of_membership(tasks)
            self._open = (tasks, tasks_of_membership)
            self._began = now()
            unlisten = self.directory.listen(self._heed)
            try:
                if self._trust is not None:
                    self._trust.listen(self._revoked)
                    tasks.start(self._trust.keep_up(self._timing.beat, self._renewed), name="membership:trust")
                tasks.start(tasks_of_membership.anti_entropy(), name="membership:mingle")
                tasks.start(beat_on(self.directory, self._watchers, self._timing), name="membership:beats")
                if is_any(address.host):
                    tasks.start(self._keep_addresses(), name="membership:addresses")
                async with AsyncExitStack() as stack:
                    ways = (*self._discoveries, Static(self._peers))
                    me = announcement(self._identity.id, self._group_tag, address.port, group=self._group)
                    await tasks_of_membership.discover(stack, ways, me, told=bool(self._peers))
                    yield
            finally:
                self._leaving = True
                tasks_of_membership.leave()
                await self._watchers.goodbye("leaving", within=_GOODBYE)
                unlisten()
                self._open = None

    async def _keep_addresses(self) -> None:
        """For ever: the card names the addresses that this machine has now, whatever interfaces come and go."""
        while True:
            await asyncio.sleep(_LOOK)
            if self._addresses() != self._card.addresses:
                self.update(self._card)

    def _tasks_of_membership(self, tasks: Background) -> MembershipTasks:
        return MembershipTasks(
            self.directory,
            self._transport,
            self._introductions,
            tasks,
            me=pb.WatchRequest(id=self._identity.id, session=self._card.session),
            timing=self._timing,
            limits=self._limits,
            problems=self._problems,
            unwanted=self._unwanted,
            is_me=self._is_me,
            refused=self._refused,
            watchers=self._watchers,
            follow=True,
            trust=self._trust,
        )

    # ---------------------------------------------------------------- what others ask of us

    async def introduce(self, introduction: pb.Introduction, caller: Caller) -> pb.Introduction:
        """An introduction without a card is somebody looking around: it is answered and recorded nowhere.

        Raises PeerRefused.
        """
        tasks_of_membership = self._at_home()
        try:
            card = self._read(introduction, caller)
            if card is not None and not self._is_me(card):
                self._welcome(card, caller.host)
                tasks_of_membership.acquainted(introduction, caller.host)
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
        """Our card, which says the version, then beats and news, then goodbye. Raises PeerRefused: UNKNOWN_PEER for a
        name that has not introduced itself, BUSY when too many watch."""
        tasks_of_membership = self._at_home()
        if request.id:
            self.vouch(caller, PeerId(request.id), request.session)
        box = self._watchers.enter(request.id)
        try:
            if not request.tells:
                tasks_of_membership.watched(PeerId(request.id))
            if self._trust is not None and self._trust.passport.revocations.signed is not None:
                box.put("revocations", pb.Notice(revocations=self._trust.passport.revocations.signed))
            async for notice in box.notices():
                yield notice
        finally:
            self._watchers.leave(box)
            if request.id and not self._watchers.watched_by(request.id):
                self._deserted(request)

    async def told(self, request: pb.WatchRequest, caller: Caller, notices: AsyncIterator[pb.Notice]) -> None:
        """What somebody who watches us tells by the same call: we need not watch it. With a group we do: its server is
        to show its certificate."""
        contact = self.directory.get(PeerId(request.id))
        introduced = contact is not None and contact.session == request.session
        if introduced and self._trust is None and self._open is not None and not self._leaving:
            await self._open[1].told(PeerId(request.id), request.session, notices)

    def _at_home(self) -> MembershipTasks:
        if self._leaving:
            raise PeerRefused(self._card.name, RefusalReason.LEAVING, "this peer is leaving")
        if self._open is None:
            raise PeerRefused(self._card.name, RefusalReason.BUSY, "this peer is starting")
        return self._open[1]

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
        if self._open is not None:
            self._open[1].heed(change)
        self._turn.notify()

    def _revoked(self) -> None:
        """A newer list of revocations is here: act on it, and tell all who watch us."""
        if self._trust is not None:
            self._trust.enforce(self.directory)
            if self._trust.passport.revocations.signed is not None:
                self._watchers.revocations(self._trust.passport.revocations.signed)

    def _renewed(self) -> None:
        """We show another certificate from now on: our card says so, and we introduce ourselves anew."""
        self.update(self._card)
        if self._open is not None:
            self._open[1].renew()

    def _unwanted(self, hint: Hint) -> bool:
        # Our own id at another place: a twin. The younger one goes to see; from hearsay nobody does.
        mine = bool(hint.id_prefix) and self._identity.id.startswith(hint.id_prefix)
        return mine and (hint.source in (EXCHANGE, MEMORY) or not self._young)

    @property
    def _group(self) -> str:
        return self._trust.group if self._trust is not None else ""

    @property
    def _young(self) -> bool:
        return now() - self._began <= self._timing.suspect_after

    def _is_me(self, card: Card) -> bool:
        return (card.id, card.session) == (self._identity.id, self._card.session)

    def _refuse_twin(self, card: Card, host: str) -> None:
        if self._young and card.session < self._card.session and self._open is not None:
            where = f"{card.name!r} at {host}"
            self._open[0].start(_fail(self._taken(f"alive as {where}")), name="membership:twin")
            raise PeerRefused(self._card.name, RefusalReason.LEAVING, "this peer makes way for its twin")
        detail = f"the id {card.id[:12]} is in use by {self._card.name!r}, which was there before"
        raise PeerRefused(self._card.name, RefusalReason.IDENTITY, detail)

    def _refused(self, exc: PeerRefused) -> None:
        """Somebody says that our id is alive elsewhere. After a restart that is true for a while, of our former self,
        and one who slept meanwhile learns of it later than others: only who goes on saying so is believed. And once we
        have been here for long, nobody's word alone makes us go."""
        young = now() - self._began <= _DOUBTED_FOR * (self._timing.gone_after + self._timing.suspect_after)
        if exc.reason is not RefusalReason.IDENTITY or not young:
            return
        since = self._doubted.setdefault(exc.peer, now())
        if now() - since > self._timing.suspect_after + 2 * self._timing.beat:
            raise self._taken(f"refused by {exc.peer}: {exc.said}")

    def _taken(self, why: str) -> IdentityError:
        return IdentityError(
            f"the identity {self._identity.id[:12]} is in use elsewhere ({why}): "
            "stop the other process, or give this one its own state directory"
        )

    # ---------------------------------------------------------------- our card

    def _stamped(self, card: Card) -> Card:
        return replace(
            card,
            serial=self._card.serial + 1,
            group_tag=self._group_tag,
            protocol=PROTOCOL,
            addresses=self._addresses(),
            version=self._version,
            certificate_sha256=self._trust.passport.fingerprint if self._trust is not None else b"",
        )

    def _addresses(self) -> tuple[Address, ...]:
        hosts = own_hosts(self._address.host) if self._address.port else []
        return tuple(Address(host, self._address.port) for host in hosts)[: self._limits.addresses]

    def _current(self) -> pb.SignedCard:
        """Signed when somebody wants to see it, and again only when it has changed."""
        if self._signed is None or self._card.version < self._version:
            if self._card.version < self._version:
                self._card = replace(self._card, serial=self._card.serial + 1, version=self._version)
            chain = self._trust.passport.chain if self._trust is not None else ()
            self._signed = sign_card(self._identity, self._card, chain)
        return self._signed


async def _fail(exc: IdentityError) -> None:
    raise exc
