"""The facade that an app embeds: what a user calls."""

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

    Entering raises ConfigError, LearnerError, NetworkError, IdentityError, GroupError or StateError, each with what to
    do. Leaving the block ends the step under way, says goodbye, stops answering and closes everything, in that order;
    the learner is then the app's own again.
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

        strategy: a method of learning from others, or its name.
        name: what others call this peer, at most 64 printable characters; empty: one is made up.
        state: directory that keeps identity and checkpoints; what is there is resumed, to the same bits as if nothing
            had happened, given the same inputs. None: nothing is kept.
        schedule: when to train, exchange, transfer and publish. None: the strategy's own.
        pace: "free" takes the latest snapshot of each provider; "lockstep" waits for the version of the round.
        gate: what a transfer may cost on held-out data. None: the default gate.
        measure: metrics to record after each span, from a function of inputs (B, ...) to probabilities (B, C).
        record: where events go; called on the event loop and on the learner's thread.
        network: where to listen, whom to look for, group, timing and limits. None: loopback, mDNS.
        sharing: what to show to which peers, and from which of them to learn. None: what the strategy needs; all.
        internals: parts to replace, for tests, simulation and special networks.
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
            record=record,
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
        """Fingerprint of the signing key, 32 hex digits; known from entering the block on."""
        return self._assembly.membership.card.id

    @property
    def card(self) -> Card:
        """As others see it."""
        return self._assembly.membership.card

    @property
    def address(self) -> Address:
        """Where this peer listens."""
        return self._assembly.address

    async def meet(self, others: int, *, timeout: float | None = None) -> None:
        """Wait until at least `others` other peers are alive here. Raises PeerUnreachable after `timeout` seconds."""
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
        """Do `rounds` rounds of the schedule, training included; None: until cancelled. Others are answered meanwhile
        and afterwards. Raises PeerStopped when the block is left meanwhile, ConfigError when a run is under way."""
        await self._assembly.orchestrator.rounds(rounds)

    async def transfer(self) -> Report:
        """For apps that train by their own loop: do the rest of a round (exchange, transfer, publish) now.

        Returns the transfer's report: no steps and no providers when there was no peer to learn from. Raises as `run`.
        """
        await self._assembly.orchestrator.rounds(1, app_trains=True)
        return self._assembly.orchestrator.last_transfer

    async def train(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the app's own training function on the learner's thread, so that the event loop stays free and others
        are answered meanwhile. Training on the loop itself works too, but others hear nothing for as long."""
        return await self._assembly.compute.run(func, *args, **kwargs)

    async def predict(self, x: Tensor, *, prior: Prior = "local") -> Tensor:
        """Probabilities (B, C) for inputs (B, ...), by the strategy's own rule; waits for a span under way.

        `prior`: how often the classes are expected where the answer is used, see `learning.prior.Prior`; for every
        strategy, and without training. Raises ConfigError for a prior that is none.
        """
        return await self._assembly.compute.run(gated.turned, self.strategy, self.learner, x, prior, self._dial)

    async def calibrate(self) -> Dial:
        """Fit the dial of `predict(prior=...)` to the model as it is now, on what is held out of the private data;
        do it again after further training. Without held-out data the class counts alone decide."""
        self._dial = await self._assembly.compute.run(gated.calibrated, self.strategy, self.learner)
        return self._dial

    def others(self) -> tuple[Contact, ...]:
        """Confirmed peers, alive or suspect, in id order."""
        return tuple(self._assembly.directory.here())

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps addresses that were named from becoming peers, a sentence each."""
        return self._assembly.membership.problems

    @property
    def quarantined(self) -> dict[PeerId, str]:
        """The providers whose knowledge this peer does not use, each with the reason: it did harm, or made no sense."""
        return {each.id: each.why for each in self._assembly.orchestrator.quarantined}

    @property
    def complaints(self) -> tuple[Complaint, ...]:
        """What others say against this peer's knowledge: the last word of each peer that has quarantined it."""
        return self._assembly.complaints.latest

    def status(self) -> Status:
        """How this peer stands, for its owner: what no other peer gets to see included."""
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
        """Rounds completed, those of earlier runs of a saved state included."""
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
            if cause is exc:  # the caller's own exception: hand it back as it came
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
