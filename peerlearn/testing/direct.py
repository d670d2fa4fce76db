"""Rounds of several peers by direct calls: what the fabric does in lockstep, without network, threads or clock."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from peerlearn.knowledge import Answer, NotModified, Outputs, Params, Question, Received
from peerlearn.learning.report import Report
from peerlearn.learning.snapshot import Snapshot
from peerlearn.orchestrator.consumer.selection import choose
from peerlearn.schedule import Exchange, Local, Phase, Publish, Transfer
from peerlearn.strategies.base import Asked
from peerlearn.testing.exchange import Member, tiny_card, tiny_id
from peerlearn.types import Card, PeerId, Span

SESSION = "s1"


@dataclass(eq=False)
class DirectPeer:
    """One peer of `DirectRounds`."""

    member: Member
    version: int = -1
    """Of the latest snapshot."""
    shown: Snapshot = field(init=False)
    """The latest snapshot: every answer comes from it."""
    taught_by: set[PeerId] = field(default_factory=set)
    """Providers whose knowledge the strategy holds since the last exchange."""
    saved: tuple[dict[str, object], dict[str, object]] = field(init=False)
    """State of learner and strategy when the latest snapshot was made."""

    def __post_init__(self) -> None:
        self.name, self.learner, self.strategy = self.member
        self.id = tiny_id(self.name)

    @property
    def card(self) -> Card:
        """As others see it now."""
        card = tiny_card(*self.member, version=self.version, session=SESSION)
        return replace(card, histogram=self._histogram)

    def publish(self) -> None:
        """Make the next snapshot."""
        self.version += 1
        self._snapshot()
        self.saved = self.learner.state_dict(), dict(self.strategy.state_dict())

    def resume(self, member: Member) -> None:
        """Go on with a learner and a strategy that hold the present state. The snapshot is made again from the state in
        which it was made before."""
        now = member[1].state_dict(), dict(member[2].state_dict())
        self.member = self.name, self.learner, self.strategy = member
        self._load(*self.saved)
        self._snapshot()
        self._load(*now)

    def _snapshot(self) -> None:
        self.shown = self.learner.snapshot(self.version, self.strategy.publish(self.learner))
        self._histogram = self.strategy.histogram(self.learner)

    def _load(self, learner: dict[str, object], strategy: dict[str, object]) -> None:
        self.learner.load_state_dict(learner)
        self.strategy.load_state_dict(strategy)


class DirectRounds:
    """Several peers in lockstep, each by its strategy's own schedule; all perform one phase before any performs the
    next. Every peer may ask every other one.

        rounds = DirectRounds([("amber", tiny_learner(0), Mutual()), ("birch", tiny_learner(1), Mutual())])
        rounds.run(3)

    `absorb`, `absorb_all`, `answer`, `local`, `transfer` and `performed` are made to be overridden, to look at what
    passes or to disturb it.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.peers = [DirectPeer(member) for member in members]
        self.answers = 0
        """Answers that brought knowledge, so far."""
        for peer in self.peers:
            peer.strategy.paced(lockstep=True)
            peer.strategy.check(peer.learner)
            peer.publish()
        self._begun = False

    def run(self, rounds: int = 1) -> None:
        """Do this many rounds more."""
        for _ in range(rounds):
            for number in range(max(len(self._phases(peer)) for peer in self.peers)):
                for peer in self.peers:
                    for phase in self._phases(peer)[number : number + 1]:
                        self._perform(peer, phase)
                        self.performed(peer)
            self._begun = True

    # ---- to be overridden

    def local(self, peer: DirectPeer, span: Span) -> Report:
        """A local span of this peer."""
        return peer.strategy.local(peer.learner, span)

    def transfer(self, peer: DirectPeer, span: Span) -> Report:
        """A transfer span of this peer."""
        return peer.strategy.transfer(peer.learner, span)

    def answer(self, provider: DirectPeer, asked: Asked) -> Answer:
        """The provider's answer from its latest snapshot."""
        return provider.strategy.answer(provider.shown, asked)

    def absorb(self, peer: DirectPeer, received: Received) -> None:
        """What was answered, or brought, goes to the strategy."""
        with peer.learner.tentative():
            peer.strategy.absorb(peer.learner, [received])

    def absorb_all(self, peer: DirectPeer, received: Sequence[Received]) -> None:
        """The answers of one exchange, in provider-id order."""
        for each in received:
            self.absorb(peer, each)

    def performed(self, peer: DirectPeer) -> None:
        """Called when this peer has performed a phase of its schedule."""

    # ---- one phase

    def _phases(self, peer: DirectPeer) -> tuple[Phase, ...]:
        schedule = peer.strategy.schedule
        return schedule.phases if self._begun else (*schedule.first, *schedule.phases)

    def _perform(self, peer: DirectPeer, phase: Phase) -> None:
        events: tuple[str, ...] = ()
        match phase:
            case Local(span):
                events = self.local(peer, span).events
            case Transfer(span):
                events = self.transfer(peer, span).events
            case Publish():
                peer.publish()
            case Exchange():
                self._exchange(peer, phase)
        for event in events:
            self._trigger(peer, event)

    def _trigger(self, peer: DirectPeer, event: str) -> None:
        for phase in peer.strategy.schedule.on.get(event, ()):
            self._perform(peer, phase)

    def _exchange(self, consumer: DirectPeer, exchange: Exchange) -> None:
        strategy, learner = consumer.strategy, consumer.learner
        others = {peer.id: peer for peer in self.peers if peer is not consumer}
        cards = [others[peer].card for peer in sorted(others)]
        unavailable = {card.id: why for card in cards if (why := strategy.misfit(learner, card)) is not None}
        preferred = strategy.prefer(learner, [card for card in cards if card.id not in unavailable])
        choice = choose(
            consumer.card,
            cards,
            unavailable=unavailable,
            preferred=preferred,
            most=exchange.most,
            draw=f"{learner.seed}:{consumer.version}:{consumer.name}" if exchange.order == "random" else "",
            pairs=str(consumer.version) if exchange.order == "pairs" else "",
        )
        if choice.providers:
            self._collect(consumer, [self._ask(consumer, others[peer]) for peer in choice.providers])

    def _collect(self, consumer: DirectPeer, series: Sequence[tuple[DirectPeer, list[Received] | None]]) -> None:
        """`series`: by provider what came; None: it refused, or is not there yet."""
        received = [each for _, came in series for each in came or ()]
        self.answers += len(received)
        self.absorb_all(consumer, received)
        taught_by = {provider.id for provider, came in series if came is not None}
        for peer in sorted(consumer.taught_by - taught_by):
            consumer.strategy.forget(peer)
        consumer.taught_by = taught_by

    def _ask(self, consumer: DirectPeer, provider: DirectPeer) -> tuple[DirectPeer, list[Received] | None]:
        asked = consumer.strategy.ask(consumer.learner, provider.card)
        came = []
        for question in [asked] if isinstance(asked, Question) else asked:
            answer = self._answered(consumer, provider, question)
            if isinstance(answer, Params | Outputs):
                came.append(Received(provider.card, answer, question.query))
            elif not isinstance(answer, NotModified):
                return provider, None
        return provider, came

    def _answered(self, consumer: DirectPeer, provider: DirectPeer, question: Question) -> Answer | None:
        if question.after is not None and provider.version < question.after:
            return None
        query = question.query
        answer: Answer
        if query.want == "nothing" or (query.have == provider.version and query.have_session == SESSION):
            answer = NotModified(provider.version)
        else:
            answer = self.answer(provider, Asked(consumer.card, question))
        if question.brings is not None and "received" in provider.strategy.schedule.on:
            self.absorb(provider, Received(consumer.card, question.brings))
            self._trigger(provider, "received")
        return answer
