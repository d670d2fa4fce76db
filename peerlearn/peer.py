"""Peer: the class that an app embeds, with all that a user calls."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal, ParamSpec, Self, TypeVar

from torch import Tensor

from peerlearn import arguments
from peerlearn.arguments import Internals, Network, Sharing
from peerlearn.assembly import Assembly, Parts
from peerlearn.directory import Contact
from peerlearn.errors import ConfigError, PeerStopped, PeerUnreachable
from peerlearn.events import Complaint, Record, Started, Stopped, discard
from peerlearn.events.guard import GuardedSink
from peerlearn.learning.learner import Learner
from peerlearn.learning.prior import Dial, Prior
from peerlearn.learning.report import Report
from peerlearn.orchestrator.pace import Pace
from peerlearn.orchestrator.training import gated
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.orchestrator.training.trainer import Measure
from peerlearn.schedule import Schedule
from peerlearn.status import Status
from peerlearn.strategies import registry
from peerlearn.strategies.base import Strategy
from peerlearn.tasks import sole_cause
from peerlearn.types import Address, Card, PeerId

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger("peerlearn")


class Peer:
    """A learner that other peers can reach: `async with Peer(learner, strategy=...) as peer`.

    Entering raises ConfigError, LearnerError, NetworkError, IdentityError, GroupError or StateError; each message says
    what to do. Leaving the block ends the step under way, says goodbye, stops answering and closes everything, in that
    order; afterwards the app may use the learner freely. All methods are called on the event loop.
    """

    def __init__(
        self,
        learner: Learner,
        *,
        strategy: Strategy | str = "distillation",
        name: str = "",
        state: Path | str | None = None,
        schedule: Schedule | None = None,
        pace: Pace | Literal["free", "lockstep"] = "free",
        gate: Gate | None = None,
        measure: Measure | None = None,
        record: Record = discard,
        network: Network | None = None,
        sharing: Sharing | None = None,
        internals: Internals | None = None,
    ) -> None:
        """Raises ConfigError or LearnerError for arguments that cannot work, before anything is opened.

        strategy: the method of learning from others, or its registered name.
        name: name that other peers see, at most 64 printable characters. Empty: a random name.
        state: directory for the identity and checkpoints. A run saved there is resumed, and given the same inputs it
            computes the same bits as without the interruption. None: nothing is saved.
        schedule: order of local training, exchange, transfer and publishing. None: the strategy's own.
        pace: "free" takes the latest snapshot of each provider; "lockstep" waits for the version of the round.
        gate: how far the metric on held-out data may fall in a transfer that is kept. None: the default gate.
        measure: computes the app's metrics after each span; is given a function from inputs (B, ...) to probabilities
            (B, C). Called on the learner's thread.
        record: sink of events. Called on the event loop and on the learner's thread; must not block.
        network: address to listen on, addresses of other peers, group, timing, limits. None: loopback and mDNS.
        sharing: exposures by peer, and the providers to learn from. None: just what the strategy shows, and every
            provider that fits.
        internals: replacements for parts, for tests, simulation and special networks.
        """
        self.learner = learner
        self.strategy = registry.make(strategy)
        self.name = arguments.name_of(name)
        pace = pace if isinstance(pace, Pace) else Pace(mode=pace)
        self.strategy.paced(lockstep=pace.mode == "lockstep")
        network, sharing, internals = network or Network(), sharing or Sharing(), internals or Internals()
        if network.membership is not None and internals.transport is not None:
            raise ConfigError("a group speaks TLS over its own transport: leave out one of group and transport")
        self._parts = Parts(
            learner=learner,
            strategy=self.strategy,
            name=self.name,
            state=Path(state) if state is not None else None,
            schedule=schedule or self.strategy.schedule,
            pace=pace,
            gate=gate or Gate(),
            measure=measure,
            record=record if record is discard else GuardedSink(record),
            network=network,
            sharing=sharing,
            internals=internals,
            allowance=arguments.allowance(self.strategy, sharing.expose),
        )
        self.strategy.check(learner)
        self._opened = False
        self._dial: Dial | None = None

    # ---------------------------------------------------------------- what the app does

    @property
    def id(self) -> PeerId:
        """Fingerprint of the signing key, 32 hex digits. Known once the block is entered."""
        return self._assembly.membership.card.id

    @property
    def card(self) -> Card:
        """The card that other peers see."""
        return self._assembly.membership.card

    @property
    def address(self) -> Address:
        """The address that this peer listens on."""
        return self._assembly.address

    async def meet(self, others: int, *, timeout: float | None = None) -> None:
        """Wait until at least `others` other peers are alive. Raises PeerUnreachable after `timeout` seconds; None:
        waits without end."""
        directory = self._assembly.directory
        try:
            async with asyncio.timeout(timeout):
                while len(directory.alive()) < others:
                    await self._assembly.changed.wait()
        except TimeoutError:
            here = ", ".join(contact.name for contact in directory.alive()) or "nobody"
            problems = "".join(f"; {problem}" for problem in self.problems)
            raise PeerUnreachable(
                self.name,
                f"met {here} within {timeout:g} s, not {others} others; run `peerlearn doctor` here and there, "
                f"or name them with network=Network(peers=['HOST:PORT']){problems}",
            ) from None

    async def run(self, rounds: int | None = None) -> None:
        """Do `rounds` rounds of the schedule, training included. None: until cancelled. The peer answers other peers
        meanwhile and afterwards. Raises PeerStopped if the block is left meanwhile, ConfigError if a run or transfer is
        under way."""
        await self._assembly.orchestrator.rounds(rounds)

    async def transfer(self) -> Report:
        """Do one round without its local training (exchange, transfer, publish), for apps with a loop of their own.

        Returns the report of the transfer, with no steps and no providers if there was no provider. Raises as `run`.
        """
        await self._assembly.orchestrator.rounds(1, app_trains=True)
        return self._assembly.orchestrator.last_transfer

    async def train(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the app's own training function on the learner's thread, and return its result. The event loop stays free
        to answer other peers. Training directly on the event loop also works, but other peers get no answer and no
        heartbeat until it ends."""
        return await self._assembly.compute.run(func, *args, **kwargs)

    async def predict(self, x: Tensor, *, prior: Prior = "local") -> Tensor:
        """Probabilities (B, C) for inputs (B, ...), computed by the strategy. Waits until a span under way has ended.

        `prior`: the class frequencies to expect where the probabilities are used, see `learning.prior.Prior`. It works
        with every strategy and needs no training. Raises ConfigError for an invalid prior.
        """
        return await self._assembly.compute.run(gated.turned, self.strategy, self.learner, x, prior, self._dial)

    async def calibrate(self) -> Dial:
        """Fit the dial of `predict(prior=...)` to the current model, on the held-out private samples. Call it again
        after further training. Without held-out samples the dial follows from the class counts alone."""
        self._dial = await self._assembly.compute.run(gated.calibrated, self.strategy, self.learner)
        return self._dial

    def others(self) -> tuple[Contact, ...]:
        """Confirmed peers that are alive or suspect, in id order."""
        return tuple(self._assembly.directory.here())

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence per address in `Network.peers` that has not led to a peer: the reason, and what to do."""
        return self._assembly.membership.problems

    @property
    def quarantined(self) -> dict[PeerId, str]:
        """Providers whose knowledge this peer does not use, each with the reason: it did harm, or was malformed."""
        return {each.id: each.why for each in self._assembly.orchestrator.quarantined}

    @property
    def complaints(self) -> tuple[Complaint, ...]:
        """The latest complaint of each peer that has quarantined this one."""
        return self._assembly.complaints.latest

    def status(self) -> Status:
        """State of this peer, for its owner. It includes facts that no other peer can read, such as complaints."""
        orchestrator = self._assembly.orchestrator
        return Status(
            name=self.name, id=self.id, address=self.address, strategy=self.strategy.name,
            round=orchestrator.round, version=orchestrator.version,
            others={contact.name: str(contact.status) for contact in self.others()},
            learns_from=orchestrator.teachers(), quarantined=orchestrator.quarantined,
            complaints=self.complaints, problems=self.problems,
        )  # fmt: skip

    @property
    def rounds_done(self) -> int:
        """Rounds completed, including those of earlier runs that were resumed from the state directory."""
        return self._assembly.orchestrator.round

    # ---------------------------------------------------------------- opened and closed

    async def __aenter__(self) -> Self:
        if self._opened:
            raise ConfigError("a peer is opened once; make a new Peer for another run")
        self._opened = True
        self._assembly = Assembly(self._parts)
        async with AsyncExitStack() as stack:
            await self._assembly.open(stack)
            self._say_started(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        try:
            return await self._stack.__aexit__(exc_type, exc, tb)
        except BaseExceptionGroup as group:
            cause = sole_cause(group, besides=PeerStopped)
            if cause is exc:  # raised inside the block by the app: Python raises it again, unwrapped
                return False
            raise cause from None

    def _say_started(self, stack: AsyncExitStack) -> None:
        if self._parts.network.insecure:
            log.warning(
                "peer %s listens on %s without encryption: everybody on this network can read and join",
                self.name,
                self.address,
            )
        record = self._parts.record
        record(Started(name=self.name, id=self.id, address=str(self.address), strategy=self.strategy.name))
        stack.callback(lambda: record(Stopped(round=self.rounds_done, why="left the block")))
