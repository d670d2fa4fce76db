"""What one peer is made of, opened and closed together: from the identity's lock up to the announcement on the LAN."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from peerlearn.arguments import Internals, Network, Sharing
from peerlearn.clock import now
from peerlearn.directory import Change, Directory
from peerlearn.discovery.base import Discovery
from peerlearn.discovery.mdns import Mdns
from peerlearn.events import Record
from peerlearn.learning.learner import Learner
from peerlearn.membership import Membership
from peerlearn.membership.transports import connections
from peerlearn.membership.trust import Trust
from peerlearn.orchestrator.checkpointing.policy import Saving
from peerlearn.orchestrator.checkpointing.store import Store
from peerlearn.orchestrator.consumer.exchange import Exchanges
from peerlearn.orchestrator.consumer.fetch import Fetcher
from peerlearn.orchestrator.exposure import Allowance, Showing
from peerlearn.orchestrator.loop import Hooks, Orchestrator
from peerlearn.orchestrator.pace import Barrier, Pace
from peerlearn.orchestrator.provider.answerer import Answerer
from peerlearn.orchestrator.provider.complaints import Complaints
from peerlearn.orchestrator.provider.snapshots import Snapshots
from peerlearn.orchestrator.training.compute import Compute, OwnThread
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.orchestrator.training.trainer import Measure
from peerlearn.schedule import Schedule
from peerlearn.security.identity import Identity
from peerlearn.strategies.base import Strategy
from peerlearn.tasks import Notifier
from peerlearn.transport.base import Caller, Transport
from peerlearn.types import Card, Exposure, PeerId
from peerlearn.version import __version__
from peerlearn.wire.v1 import fabric_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a peer is made from: its arguments, checked and completed."""

    learner: Learner
    strategy: Strategy
    name: str
    state: Path | None
    schedule: Schedule
    pace: Pace
    gate: Gate
    measure: Measure | None
    record: Record
    network: Network
    sharing: Sharing
    internals: Internals
    allowance: Allowance


class Assembly:
    """One peer, opened. `open` goes from top to bottom; leaving the stack closes from bottom to top: goodbye first,
    the identity's lock last.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.changed = Notifier()
        """Notified when the directory has changed."""

    async def open(self, stack: AsyncExitStack) -> None:
        """Raises LearnerError, NetworkError, IdentityError, GroupError or StateError, each with what to do."""
        parts, network = self._parts, self._parts.network
        identity = stack.enter_context(self._identity())
        self.compute = self._computing(stack, "learner")
        answers = self._computing(stack, "answers")
        card = first_card(
            parts.learner, parts.strategy, id=identity.id, name=parts.name, group_tag=network.group_tag,
            exposes=parts.allowance.anybody, session=parts.internals.session,
        )  # fmt: skip
        self.directory = Directory(
            identity.id, group_tag=network.group_tag, timing=network.timing, limits=network.limits
        )
        stack.callback(self.directory.listen(lambda change: self.changed.notify()))
        transport, trust = self._transport()
        self.membership = Membership(
            identity, self.directory, transport, self._discoveries(), timing=network.timing, limits=network.limits,
            group_tag=network.group_tag, record=parts.record, peers=network.addresses, trust=trust,
        )  # fmt: skip
        self.shown = OwnCard(card, self.membership, counts=Exposure.HISTOGRAM in parts.allowance.everybody)
        snapshots = Snapshots(keep=parts.pace.kept_versions)
        showing = self._showing(card)
        self.orchestrator = self._orchestrator(card, transport, snapshots, showing)
        await self.orchestrator.start()
        self.complaints = Complaints(parts.record, now)
        answerer = Answerer(
            card, parts.strategy, snapshots, compute=answers, acquainted=self._acquainted,
            arrived=self.orchestrator.arrived if "received" in parts.schedule.on else None,
            quarantine_reason=self.orchestrator.quarantine_reason, complaints=self.complaints, record=parts.record,
            vouch=self.membership.vouch, showing=showing, limits=network.limits,
        )  # fmt: skip
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        self.address = await stack.enter_async_context(transport.serving(_Service(self.membership, answerer)))
        tasks.create_task(self.orchestrator.run(), name=f"{parts.name}:orchestrator")
        stack.push_async_callback(self.orchestrator.leave)
        await stack.enter_async_context(self.membership.running(self.address, self.shown.at(self.orchestrator.version)))
        self.shown.joined = True
        stack.callback(answerer.leave)
        stack.callback(self.orchestrator.stop)  # it saves while goodbyes are said

    def _identity(self) -> Identity:
        parts = self._parts
        if parts.internals.identity is not None:
            return parts.internals.identity
        return Identity.ephemeral() if parts.state is None else Identity.load_or_create(parts.state)

    def _computing(self, stack: AsyncExitStack, room: str) -> Compute:
        make = self._parts.internals.compute or self._own_thread
        compute = make(room)
        stack.push_async_callback(compute.close)
        return compute

    def _own_thread(self, room: str) -> Compute:
        name, learner = f"{self._parts.name}:{room}", self._parts.learner
        if room == "learner":
            return OwnThread(name, interrupt=learner.interrupt, go_on=learner.go_on)
        return OwnThread(name)

    def _transport(self) -> tuple[Transport, Trust | None]:
        network = self._parts.network
        if self._parts.internals.transport is not None:
            return self._parts.internals.transport, None
        return connections(network.membership, network.address, timing=network.timing, limits=network.limits)

    def _discoveries(self) -> tuple[Discovery, ...]:
        given = self._parts.internals.discovery
        return tuple(given) if given is not None else (Mdns(self._parts.network.address.host),)

    def _showing(self, card: Card) -> Showing:
        return Showing(
            self._parts.allowance,
            state=frozenset(self._parts.learner.state),
            public=frozenset(public.fingerprint for public in card.public_sets),
            namesakes=lambda name: sum(contact.name == name for contact in self.directory.here()),
        )

    def _orchestrator(self, card: Card, transport: Transport, snapshots: Snapshots, showing: Showing) -> Orchestrator:
        parts, network = self._parts, self._parts.network
        directory = _DirectoryView(self.directory, self.changed, self.membership.doubt)
        store = self._store()
        fetcher = Fetcher(
            card, parts.strategy.name, transport=transport, directory=directory,
            certificates=self.membership.certificates_of, showing=showing, limits=network.limits,
            cast=parts.sharing.cast, absence=parts.pace.absence,
        )  # fmt: skip
        exchanges = Exchanges(
            card, parts.learner, parts.strategy, compute=self.compute, directory=directory, fetcher=fetcher,
            timing=network.timing, patience=parts.pace.patience, record=parts.record, wants=parts.sharing.wants,
            most_providers=parts.sharing.most_providers, keeps=store is not None,
        )  # fmt: skip
        return Orchestrator(
            parts.learner,
            parts.strategy,
            schedule=parts.schedule,
            exchanges=exchanges,
            snapshots=snapshots,
            compute=self.compute,
            directory=directory,
            barrier=Barrier(parts.pace, directory) if parts.pace.mode == "lockstep" else None,
            gate=parts.gate,
            saving=self._saving(store),
            hooks=Hooks(
                record=parts.record,
                measure=parts.measure,
                published=self.shown.show_version,
                round_ended=self.shown.show_teachers,
            ),
        )

    def _saving(self, store: Store | None) -> Saving | None:
        if store is None:
            return None
        return Saving(store, compute=self.compute, record=self._parts.record, every=self._parts.internals.save_every)

    def _store(self) -> Store | None:
        parts = self._parts
        if parts.internals.store is not None:
            return parts.internals.store(parts.learner, parts.strategy)
        return Store(parts.state, parts.learner, parts.strategy) if parts.state is not None else None

    def _acquainted(self, peer: PeerId) -> Card | None:
        contact = self.directory.get(peer)
        return contact.card if contact is not None else None


def first_card(
    learner: Learner,
    strategy: Strategy,
    *,
    id: PeerId,
    name: str,
    group_tag: str,
    exposes: frozenset[Exposure],
    session: str = "",
) -> Card:
    """The card of a peer that has just started; class counts only when they are exposed. `session`: random unless
    given."""
    facts = learner.describe()
    return Card(
        id=id,
        name=name,
        session=session or secrets.token_hex(8),
        group_tag=group_tag,
        software=f"peerlearn {__version__}",
        task=facts.task,
        classes=facts.classes,
        histogram=facts.histogram if Exposure.HISTOGRAM in exposes else (),
        architecture=facts.architecture,
        start=facts.start,
        layers=facts.layers,
        strategy=strategy.name,
        exposes=exposes,
        public_sets=facts.public_sets,
    )


class OwnCard:
    """The card that others see, kept in step with what this peer has learned and from whom."""

    def __init__(self, card: Card, membership: Membership, *, counts: bool) -> None:
        """`counts`: whether class counts are shown to all."""
        self._first = card
        self._membership = membership
        self._counts = counts
        self.joined = False
        """Whether others have been told of this peer."""

    def at(self, version: int) -> Card:
        """The card to join with."""
        return replace(self._first, version=version)

    def show_version(self, version: int, histogram: tuple[int, ...]) -> None:
        """Others hear of each snapshot; the card travels only when class counts that are shown have changed."""
        shown = histogram if self._counts else ()
        if self.joined and shown != self._membership.card.histogram:
            self._membership.update(replace(self._membership.card, histogram=shown, version=version))
        else:
            self._first = replace(self._first, histogram=shown)
            self._membership.announce_version(version)

    def show_teachers(self, taught_by: tuple[PeerId, ...]) -> None:
        """The card says who learns from whom; it travels only when that changes."""
        if taught_by != self._membership.card.learns_from:
            self._membership.update(replace(self._membership.card, learns_from=taught_by))


class _Service:
    """The two halves of what a peer answers: introductions and watches, and questions."""

    def __init__(self, membership: Membership, answerer: Answerer) -> None:
        self.introduce = membership.introduce
        self._membership = membership
        self.admit = answerer.admit
        self.answer = answerer.answer
        self.told = membership.told

    def watch(self, request: pb.WatchRequest, caller: Caller) -> AsyncIterator[pb.Notice]:
        return self._membership.watch(request, caller)


class _DirectoryView:
    """The directory as the orchestrator sees it."""

    def __init__(self, directory: Directory, changed: Notifier, doubt: Callable[[PeerId], None]) -> None:
        self.alive = directory.alive
        self.doubt = doubt
        self.get = directory.get
        self.news = changed.wait
        self._directory = directory
        self._left: set[PeerId] = set()
        directory.listen(self._hear)

    def left(self, peer: PeerId) -> bool:
        return peer in self._left

    def _hear(self, change: Change) -> None:
        if change.what == "left":
            self._left = {contact.id for contact in self._directory if contact.id in self._left} | {change.contact.id}
        elif change.of_life:
            self._left.discard(change.contact.id)
