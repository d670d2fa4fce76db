"""Opens and closes the parts of one peer, in order: from the lock on its identity to its announcement on the LAN."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from peerlearn.arguments import Internals, Network, Sharing
from peerlearn.clock import now
from peerlearn.directory import Directory
from peerlearn.discovery.base import Discovery
from peerlearn.discovery.mdns import Mdns
from peerlearn.events import Opening, Record
from peerlearn.learning.learner import Learner
from peerlearn.membership import Membership
from peerlearn.membership.shown_card import ShownCard
from peerlearn.membership.transports import connections
from peerlearn.membership.trust import Trust
from peerlearn.membership.view import View
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
    """Arguments of a peer, checked, with defaults filled in."""

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
    """Parts of one open peer. The stack given to `open` closes them in reverse order: the step under way ends, other
    peers get a goodbye, and the lock on the identity is released last. Lives on the event loop.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.changed = Notifier()
        """Notified after each change of the directory."""

    async def open(self, stack: AsyncExitStack) -> None:
        """Open every part, and push its closing onto `stack`.

        Raises LearnerError, NetworkError, IdentityError, GroupError or StateError; each message says what to do.
        """
        parts, network = self._parts, self._parts.network
        identity = stack.enter_context(self._identity())
        parts.record(Opening(id=identity.id, name=parts.name))
        self.compute = self._computing(stack, "learner")
        answers = self._computing(stack, "answers")
        card = first_card(
            parts.learner, parts.strategy, id=identity.id, name=parts.name, group_tag=network.group_tag,
            exposes=parts.allowance.anybody, session=parts.internals.session,
        )  # fmt: skip
        self.directory = Directory(
            identity.id, group_tag=network.group_tag, timing=network.timing, limits=network.limits
        )
        transport, trust = self._transport()
        self.complaints = Complaints(parts.record, now)
        self.membership = Membership(
            identity, self.directory, transport, self._discoveries(), timing=network.timing, limits=network.limits,
            group_tag=network.group_tag, record=parts.record, peers=network.addresses, trust=trust,
            complained=self.complaints.heard,
        )  # fmt: skip
        self.view = View(self.directory, self.changed, self.membership.doubt, self.membership.complain)
        stack.callback(self.directory.listen(self.view.heed))
        self.shown = ShownCard(card, self.membership, counts=Exposure.HISTOGRAM in parts.allowance.everybody)
        snapshots = Snapshots(keep=parts.pace.kept_versions)
        showing = self._showing(card)
        self.orchestrator = self._orchestrator(card, transport, snapshots, showing)
        await self.orchestrator.start()  # before serving: the first question finds a snapshot to answer from
        answerer = Answerer(
            card, parts.strategy, snapshots, compute=answers, acquainted=self.view.card,
            arrived=self.orchestrator.arrived if "received" in parts.schedule.on else None,
            quarantine_reason=self.orchestrator.quarantine_reason, record=parts.record,
            vouch=self.membership.vouch, showing=showing, limits=network.limits,
        )  # fmt: skip
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        self.address = await stack.enter_async_context(transport.serving(_Service(self.membership, answerer)))
        tasks.create_task(self.orchestrator.run(), name=f"{parts.name}:orchestrator")
        stack.push_async_callback(self.orchestrator.leave)
        await stack.enter_async_context(self.membership.running(self.address, self.shown.at(self.orchestrator.version)))
        self.shown.joined = True
        stack.callback(answerer.leave)
        stack.callback(self.orchestrator.stop)  # first when closing: the run is saved while goodbyes are sent

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
        # Not self: a reference cycle would keep the model in memory until Python's cycle collector runs.
        directory = self.directory
        return Showing(
            self._parts.allowance,
            state=frozenset(self._parts.learner.state),
            public=frozenset(public.fingerprint for public in card.public_sets),
            namesakes=lambda name: sum(contact.name == name for contact in directory.here()),
        )

    def _orchestrator(self, card: Card, transport: Transport, snapshots: Snapshots, showing: Showing) -> Orchestrator:
        parts, network = self._parts, self._parts.network
        directory = self.view
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
    """The card of a peer that has just started. It has class counts only if they are exposed.

    `exposes`: everything that at least one peer may see. `session`: 16 hex digits; empty: random.
    """
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


class _Service:
    """Implements `transport.base.Service`: membership answers introductions and watches, the answerer answers
    questions."""

    def __init__(self, membership: Membership, answerer: Answerer) -> None:
        self.introduce = membership.introduce
        self._membership = membership
        self.admit = answerer.admit
        self.answer = answerer.answer
        self.told = membership.told

    def watch(self, request: pb.WatchRequest, caller: Caller) -> AsyncIterator[pb.Notice]:
        return self._membership.watch(request, caller)
