"""The facade that an app embeds: everything one peer is, opened and closed together."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Literal, ParamSpec, Self, TypeVar

from torch import Tensor

from peerlearn import arguments
from peerlearn.casts import check_cast
from peerlearn.clock import now
from peerlearn.config import Limits, Timing
from peerlearn.directory import Change, Contact, Directory
from peerlearn.discovery.base import Discovery
from peerlearn.discovery.mdns import Mdns
from peerlearn.errors import ConfigError, PeerStopped, PeerUnreachable
from peerlearn.events import Complaint, Record, Started, Stopped, discard
from peerlearn.learning.learner import Learner
from peerlearn.learning.prior import Dial, Prior
from peerlearn.learning.report import Report
from peerlearn.membership import Membership
from peerlearn.membership.transports import connections
from peerlearn.membership.trust import Trust
from peerlearn.orchestrator.checkpointing.policy import SAVE_EVERY, Saving
from peerlearn.orchestrator.checkpointing.store import Store
from peerlearn.orchestrator.consumer.exchange import Exchanges
from peerlearn.orchestrator.consumer.fetch import Fetcher
from peerlearn.orchestrator.exposure import Showing
from peerlearn.orchestrator.loop import Measure, Orchestrator
from peerlearn.orchestrator.pace import Barrier, Pace
from peerlearn.orchestrator.provider.answerer import Answerer
from peerlearn.orchestrator.provider.complaints import Complaints
from peerlearn.orchestrator.provider.snapshots import Snapshots
from peerlearn.orchestrator.training import gated as training
from peerlearn.orchestrator.training.compute import Compute, OwnThread
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.schedule import Schedule
from peerlearn.security.group import Group
from peerlearn.security.identity import Identity
from peerlearn.status import Status
from peerlearn.strategies import registry
from peerlearn.strategies.base import Strategy
from peerlearn.tasks import Notifier, sole_cause
from peerlearn.transport.base import Caller, Transport
from peerlearn.types import Address, Card, Exposure, PeerId
from peerlearn.wire.v1 import fabric_pb2 as pb

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger("peerlearn")


class Peer:
    """A learner that other peers can reach: `async with Peer(learner, strategy=...) as peer`.

    Entering raises ConfigError, LearnerError, NetworkError, IdentityError or StateError, each with what to do.
    Leaving the block ends the step under way, says goodbye, stops answering and closes everything, in that order;
    the learner is then the app's own again.
    """

    def __init__(
        self,
        learner: Learner,
        *,
        strategy: Strategy | str = "distillation",
        name: str = "",
        state: Path | str | None = None,
        save_every: float = SAVE_EVERY,
        listen: Address | str | None = None,
        peers: Iterable[Address | str] = (),
        group_tag: str = "",
        insecure: bool = False,
        group: Group | Path | str | None = None,
        expose: arguments.Expose | None = None,
        learn_from: Iterable[str] | None = None,
        most_providers: int | None = None,
        cast: str = "",
        schedule: Schedule | None = None,
        pace: Pace | Literal["free", "lockstep"] = "free",
        gate: Gate | None = None,
        measure: Measure | None = None,
        record: Record = discard,
        identity: Identity | None = None,
        transport: Transport | None = None,
        discovery: Sequence[Discovery] | None = None,
        compute: Callable[[str], Compute] | None = None,
        store: Callable[[Learner, Strategy], Store] | None = None,
        session: str = "",
        timing: Timing | None = None,
        limits: Limits | None = None,
    ) -> None:
        """
        strategy: a method of learning from others, or its name.
        state: directory that keeps identity and checkpoints; what is there is resumed, to the same bits as if nothing
            had happened, given the same inputs. None: nothing is kept.
        save_every: seconds of a long local span that a crash may cost; snapshots, and spans of more than a second,
            are saved when they end.
        listen: HOST:PORT; default a free port on loopback, or on all interfaces with `group` or `insecure`.
        peers: addresses of others, HOST:PORT, beside those that mDNS finds.
        group_tag: only peers with the same tag take notice of each other.
        insecure: listen on the LAN without encryption and authentication of a group.
        group: the group, or its file: only its members are let in, by mutual TLS, and the LAN is listened on.
        expose: what this peer may show; must cover what the strategy shows. None: just that. A mapping says it by
            peer: its id or name, "*" for all others.
        learn_from: names or ids of the providers wanted (links); None: everybody that fits.
        most_providers: how many of them to ask at most in one exchange, the most promising first.
        cast: what may be lost on the way to this peer, for a slow network: "" nothing, "bfloat16", "float16", "int8",
            or "topk:0.01": of what is held of a provider, that share is brought up to date at each exchange, what has
            changed most. A strategy that asks for a cast itself gets its own.
        schedule, pace, gate: override the strategy's default schedule, free pace, and the default gate.
        measure: metrics to record after each span, from a function of inputs to probabilities.
        record: where events go.
        identity, transport, discovery, compute (given "learner" or "answers"), store (in place of `state`), session
            (random unless given), timing, limits: for tests, simulation and special networks.
        """
        self.learner = learner
        self.strategy = registry.make(strategy)
        self.name = arguments.name_of(name)
        self._state = Path(state) if state is not None else None
        self._save_every = arguments.positive(save_every, "save_every")
        self._timing, self._limits = timing or Timing(), limits or Limits()
        self._group = arguments.group_of(group)
        self._listen = arguments.listen_address(listen, insecure=insecure, group=self._group is not None)
        if self._group is not None and transport is not None:
            raise ConfigError("a group speaks TLS over its own transport: leave out one of group and transport")
        self._insecure = insecure
        self._static = tuple(a if isinstance(a, Address) else Address.parse(a) for a in peers)
        self._group_tag = group_tag
        self._allowance = arguments.allowance(self.strategy, expose)
        self._links = arguments.links(learn_from)
        self._most = most_providers
        self._cast = check_cast(cast)
        self._schedule = schedule or self.strategy.schedule
        self._pace = pace if isinstance(pace, Pace) else Pace(mode=pace)
        self._gate = gate or Gate()
        self._measure = measure
        self._record = record
        self._identity = identity
        self._transport = transport
        self._discovery = discovery
        self._make_compute = compute or self._own_thread
        self._make_store = store or self._own_store
        self._session = session
        self.strategy.check(learner)
        self._opened = self._joined = False
        self._dial: Dial | None = None

    # ---------------------------------------------------------------- what the app does

    @property
    def id(self) -> PeerId:
        """Fingerprint of the signing key; known from entering the block on."""
        return self._card.id

    @property
    def card(self) -> Card:
        """As others see it."""
        return self._membership.card

    async def meet(self, others: int, *, timeout: float | None = None) -> None:
        """Wait until at least `others` other peers are alive here. Raises PeerUnreachable after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while len(self._directory.alive()) < others:
                    await self._news.wait()
        except TimeoutError:
            here = ", ".join(contact.name for contact in self._directory.alive()) or "nobody"
            problems = "".join(f"; {problem}" for problem in self._membership.problems)
            raise PeerUnreachable(
                self.name,
                f"met {here} within {timeout:g} s, not {others} others; "
                f"run `peerlearn doctor` here and there, or name them with peers=['HOST:PORT']{problems}",
            ) from None

    async def run(self, rounds: int | None = None) -> None:
        """Do `rounds` rounds of the schedule, training included; None: until cancelled. Others are answered
        meanwhile and after."""
        await self._orchestrator.rounds(rounds)

    async def transfer(self) -> Report:
        """For apps that train by their own loop: do the rest of a round (exchange, transfer, publish) now.

        Returns the transfer's report: no steps and no providers when there was nobody to learn from.
        """
        await self._orchestrator.rounds(1, app_trains=True)
        return self._orchestrator.last_transfer

    async def train(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the app's own training function on the learner's thread, so that the event loop stays free and others
        are answered meanwhile. Training on the loop itself works too, but others hear nothing for as long."""
        return await self._compute.run(func, *args, **kwargs)

    async def predict(self, x: Tensor, *, prior: Prior = "local") -> Tensor:
        """Probabilities (B, C) for inputs (B, ...), by the strategy's own rule; waits for a span under way.

        `prior`: how often the classes are expected where the answer is used, see `dial.Prior`; for every strategy, and
        without training. Raises ConfigError for a prior that is none.
        """
        return await self._compute.run(training.turned, self.strategy, self.learner, x, prior, self._dial)

    async def calibrate(self) -> Dial:
        """Fit the dial of `predict(prior=...)` to the model as it is now, on what is held out of the private data;
        do it again after further training. Without held-out data the class counts alone decide."""
        self._dial = await self._compute.run(training.calibrated, self.strategy, self.learner)
        return self._dial

    def others(self) -> tuple[Contact, ...]:
        """Confirmed peers, alive or suspect, in id order."""
        return tuple(self._directory.here())

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps addresses that were named from becoming peers, a sentence each."""
        return tuple(self._membership.problems)

    @property
    def quarantined(self) -> dict[PeerId, str]:
        """Those whose knowledge this peer does not use, each with the reason: it did harm, or made no sense."""
        return {each.id: each.why for each in self._orchestrator.quarantined}

    @property
    def complaints(self) -> tuple[Complaint, ...]:
        """What others say against this peer's knowledge: the last word of each who has put it aside."""
        return self._complaints.latest

    def status(self) -> Status:
        """How this peer stands, for its owner: what nobody else gets to see included."""
        return Status(
            name=self.name, id=self.id, address=self.address, strategy=self.strategy.name,
            round=self._orchestrator.round, version=self._orchestrator.version,
            others={contact.name: str(contact.status) for contact in self.others()},
            learns_from=self._orchestrator.teachers(), quarantined=self._orchestrator.quarantined,
            complaints=self.complaints, problems=self.problems,
        )  # fmt: skip

    @property
    def rounds_done(self) -> int:
        return self._orchestrator.round

    # ---------------------------------------------------------------- opened and closed together

    async def __aenter__(self) -> Self:
        if self._opened:
            raise ConfigError("a peer is opened once; make a new Peer for another run")
        self._opened = True
        async with AsyncExitStack() as stack:
            await self._open(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        try:
            return await self._stack.__aexit__(exc_type, exc, tb)
        except BaseExceptionGroup as group:
            cause = sole_cause(group, besides=PeerStopped)
            if cause is exc:  # the caller's own exception: hand it back as it came
                return False
            raise cause from None

    async def _open(self, stack: AsyncExitStack) -> None:
        """Top to bottom; left bottom to top: goodbye first, the identity's lock last."""
        identity = stack.enter_context(self._own_identity())
        self._compute = self._computing(stack, "learner")
        answers = self._computing(stack, "answers")
        self._card = arguments.first_card(
            self.learner,
            self.strategy,
            id=identity.id,
            name=self.name,
            group_tag=self._group_tag,
            exposes=self._allowance.anybody,
            session=self._session,
        )
        self._news = Notifier()
        self._directory = Directory(identity.id, group_tag=self._group_tag, timing=self._timing, limits=self._limits)
        stack.callback(self._directory.listen(lambda change: self._news.notify()))
        transport, trust = self._connections()
        self._membership = Membership(
            identity, self._directory, transport, self._discoveries(), timing=self._timing, limits=self._limits,
            group_tag=self._group_tag, record=self._record, peers=self._static, trust=trust,
        )  # fmt: skip
        snapshots = Snapshots(keep=self._pace.kept_versions)
        showing = self._showing()
        self._orchestrator = await self._orchestrated(transport, snapshots, showing)
        self._complaints = Complaints(self._record, now)
        answerer = Answerer(
            self._card, self.strategy, snapshots, compute=answers, acquainted=self._acquainted,
            arrived=self._orchestrator.arrived if "received" in self._schedule.on else None,
            quarantine_reason=self._orchestrator.quarantine_reason, complaints=self._complaints, record=self._record,
            vouch=self._membership.vouch, showing=showing, limits=self._limits,
        )  # fmt: skip
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        self.address = await stack.enter_async_context(transport.serving(_Service(self._membership, answerer)))
        tasks.create_task(self._orchestrator.run(), name=f"{self.name}:orchestrator")
        stack.push_async_callback(self._orchestrator.leave)
        await stack.enter_async_context(
            self._membership.running(self.address, replace(self._card, version=self._orchestrator.version))
        )
        self._joined = True
        stack.callback(answerer.leave)
        stack.callback(self._orchestrator.stop)  # it saves while goodbyes are said
        self._say_started(stack)

    def _own_identity(self) -> Identity:
        if self._identity is not None:
            return self._identity
        return Identity.ephemeral() if self._state is None else Identity.load_or_create(self._state)

    def _computing(self, stack: AsyncExitStack, room: str) -> Compute:
        compute = self._make_compute(room)
        stack.push_async_callback(compute.close)
        return compute

    def _own_thread(self, room: str) -> Compute:
        name = f"{self.name}:{room}"
        if room == "learner":
            return OwnThread(name, interrupt=self.learner.interrupt, go_on=self.learner.go_on)
        return OwnThread(name)

    def _own_store(self, learner: Learner, strategy: Strategy) -> Store | None:
        return Store(self._state, learner, strategy) if self._state is not None else None

    def _connections(self) -> tuple[Transport, Trust | None]:
        if self._transport is not None:
            return self._transport, None
        return connections(self._group, self._listen, timing=self._timing, limits=self._limits)

    def _showing(self) -> Showing:
        return Showing(
            self._allowance,
            state=frozenset(self.learner.state),
            public=frozenset(public.fingerprint for public in self._card.public_sets),
            namesakes=lambda name: sum(contact.name == name for contact in self._directory.here()),
        )

    def _discoveries(self) -> Sequence[Discovery]:
        return self._discovery if self._discovery is not None else (Mdns(self._listen.host),)

    async def _orchestrated(self, transport: Transport, snapshots: Snapshots, showing: Showing) -> Orchestrator:
        directory = _DirectoryView(self._directory, self._news, self._membership.doubt)
        store = self._make_store(self.learner, self.strategy)
        fetcher = Fetcher(
            self._card, self.strategy.name, transport=transport, directory=directory,
            certificates=self._membership.certificates_of, showing=showing, limits=self._limits,
            cast=self._cast, absence=self._pace.absence,
        )  # fmt: skip
        orchestrator = Orchestrator(
            self.learner,
            self.strategy,
            schedule=self._schedule,
            exchanges=lambda changed: Exchanges(
                self._card, self.learner, self.strategy, compute=self._compute, directory=directory, fetcher=fetcher,
                timing=self._timing, patience=self._pace.patience, record=self._record, changed=changed,
                most_providers=self._most, links=self._links,
            ),
            snapshots=snapshots,
            compute=self._compute,
            directory=directory,
            barrier=Barrier(self._pace, directory),
            gate=self._gate,
            record=self._record,
            measure=self._measure,
            saving=Saving(store, compute=self._compute, record=self._record, every=self._save_every),
            published=self._show_version,
            round_ended=self._show_teachers,
        )  # fmt: skip
        await orchestrator.start()
        return orchestrator

    def _acquainted(self, peer: PeerId) -> Card | None:
        contact = self._directory.get(peer)
        return contact.card if contact is not None else None

    def _show_version(self, version: int, histogram: tuple[int, ...]) -> None:
        """Others hear of each snapshot; the card travels only when class counts that are shown have changed."""
        shown = histogram if Exposure.HISTOGRAM in self._allowance.everybody else ()
        if self._joined and shown != self._membership.card.histogram:
            self._membership.update(replace(self._membership.card, histogram=shown, version=version))
        else:
            self._card = replace(self._card, histogram=shown)
            self._membership.announce_version(version)

    def _show_teachers(self, taught_by: tuple[PeerId, ...]) -> None:
        """The card says who learns from whom; it travels only when that changes."""
        if taught_by != self._membership.card.learns_from:
            self._membership.update(replace(self._membership.card, learns_from=taught_by))

    def _say_started(self, stack: AsyncExitStack) -> None:
        if self._insecure:
            log.warning(
                "peer %s listens on %s without encryption: everybody on this network can read and join",
                self.name,
                self.address,
            )
        self._record(Started(name=self.name, id=self.id, address=str(self.address), strategy=self.strategy.name))
        stack.callback(lambda: self._record(Stopped(round=self._orchestrator.round, why="left the block")))


class _Service:
    """The two halves of what a peer answers: who I am and that I live; and questions."""

    def __init__(self, membership: Membership, answerer: Answerer) -> None:
        self.introduce = membership.introduce
        self._membership = membership
        self.admit = answerer.admit
        self.answer = answerer.answer

    def watch(self, request: pb.WatchRequest, caller: Caller) -> AsyncIterator[pb.Notice]:
        return self._membership.watch(request, caller)

    async def told(self, request: pb.WatchRequest, caller: Caller, notices: AsyncIterator[pb.Notice]) -> None:
        await self._membership.told(request, caller, notices)


class _DirectoryView:
    """The directory as the orchestrator sees it."""

    def __init__(self, directory: Directory, news: Notifier, doubt: Callable[[PeerId], None]) -> None:
        self.alive = directory.alive
        self.doubt = doubt
        self.get = directory.get
        self.news = news.wait
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
