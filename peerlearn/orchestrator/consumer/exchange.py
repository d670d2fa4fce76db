"""Exchanges with several providers at once: choose them, ask them, and hand their answers to the strategy."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from peerlearn.bounded import Bounded
from peerlearn.clock import now
from peerlearn.config import Timing
from peerlearn.errors import KnowledgeError, TransferError, WireError
from peerlearn.events import Decided, Fetched, FetchFailed, Record, Unfit
from peerlearn.knowledge import Question, Received
from peerlearn.learning.fence import fence
from peerlearn.learning.learner import Learner
from peerlearn.orchestrator.consumer.backoff import Backoff
from peerlearn.orchestrator.consumer.fetch import Fetch, Fetcher
from peerlearn.orchestrator.consumer.reputation import Reputation
from peerlearn.orchestrator.consumer.selection import choose
from peerlearn.orchestrator.directory_view import DirectoryView
from peerlearn.orchestrator.training import gated as training
from peerlearn.orchestrator.training.compute import Compute
from peerlearn.schedule import Exchange
from peerlearn.strategies.base import Strategy, prefers
from peerlearn.types import Card, PeerId

_UNKNOWN: Final[tuple[str, int, str | None]] = ("", -1, None)
"""Session, card serial and reason of a provider whose fit has not been looked at yet."""
_REMEMBERED: Final = 1024
"""Upper bound on remembered peers: a fabric that runs for years meets ever new ones."""


class Exchanges:
    """The consuming side of a peer. Lives on the event loop; calls the strategy on the learner's thread."""

    def __init__(
        self,
        me: Card,
        learner: Learner,
        strategy: Strategy,
        *,
        compute: Compute,
        directory: DirectoryView,
        fetcher: Fetcher,
        timing: Timing,
        patience: float,
        record: Record,
        wants: Callable[[Card], bool],
        most_providers: int | None,
        keeps: bool,
    ) -> None:
        """patience: seconds that a live provider may take to reach the version asked for (lockstep).
        wants: True for a provider that the app has not excluded.
        most_providers: upper bound on the providers asked in one exchange; None: no bound.
        keeps: True if the run is saved; the reputation before an exchange is then remembered for checkpoints.
        """
        self._me = me
        self._learner = learner
        self._strategy = strategy
        self._prefers = prefers(strategy)
        self._compute = compute
        self._directory = directory
        self._fetcher = fetcher
        self._patience = patience
        self._record = record
        self._wants = wants
        self._most = most_providers
        self._keeps = keeps
        # A failure cost about one stall window, so the pause begins with one; at most a minute by default (12 * 5 s),
        # so that a provider that has come back is soon asked again.
        self._backoff = Backoff(now, first=timing.stall, most=12 * timing.stall)
        self.reputation = Reputation(directory.complain, record=record)
        self._reputation_before: Mapping[str, Any] = {}
        self._answers: dict[PeerId, list[Fetch]] = {}
        self._names: Bounded[str, str] = Bounded(_REMEMBERED)
        self._misfits: Bounded[PeerId, tuple[str, int, str | None]] = Bounded(_REMEMBERED)
        self.changed: Callable[[], None] = lambda: None
        """Called when the last question under way has been answered or has failed."""
        self.histogram = me.histogram
        """Labelled samples per class that this peer has seen, (C,), as of its latest snapshot. Used for selection even
        if the card does not show it."""
        self.asked = False
        """True from sending the questions of an exchange to collecting their answers."""
        self.nobody = False
        """True if an early attempt to ask found no provider."""
        self.in_flight = 0
        """Providers whose answers have not arrived yet."""
        self.taught_by: set[PeerId] = set()
        """Providers whose knowledge the strategy holds, as of the last collection."""

    async def ask(
        self, fetching: asyncio.TaskGroup, exchange: Exchange, *, round_: int, at: int | None, due_now: bool
    ) -> None:
        """Choose providers and start a task in `fetching` for each, which sends the questions to it.

        at: the version to ask for (lockstep); None: the latest.
        due_now: False for an early attempt. If no provider is found, an early attempt is repeated later; an exchange
            that is due then ends without answers.
        """
        if self._keeps and not (self.asked or self.nobody):
            self._reputation_before = self.reputation.as_tree()
        contacts = [contact for contact in self._directory.alive() if self._wants(contact.card)]
        cards, versions = [contact.card for contact in contacts], {c.card.id: c.version for c in contacts}
        misfits = await self._weigh(cards)
        reasons = {c.id: misfits[c.id] or self._backoff.why(c) or self.reputation.why(c, versions[c.id]) for c in cards}
        unavailable = {peer: why for peer, why in reasons.items() if why is not None}
        fit = [card for card in cards if card.id not in unavailable]
        # Asked only of strategies with a preference: a hop to the learner's thread takes longer than all the rest here.
        preferred = await self._compute.run(self._strategy.prefer, self._learner, fit) if self._prefers else None
        most = exchange.most if exchange.most is not None else self._most
        eligible = [card.id for card in fit] if preferred is None else preferred
        # Group testing needs a choice to limit: with pairs or a single provider, each is tried alone anyway.
        if exchange.order != "pairs" and most != 1 and len(eligible) > 1:
            unavailable |= self.reputation.waiting([card.id for card in fit if card.id in eligible])
            fit = [card for card in fit if card.id not in unavailable]
        choice = choose(
            replace(self._me, histogram=self.histogram),
            cards,
            unavailable=unavailable,
            preferred=preferred,
            most=most,
            draw=f"{self._learner.seed}:{round_}:{self._me.name}" if exchange.order == "random" else "",
            pairs=str(round_ if at is None else at) if exchange.order == "pairs" else "",
        )
        if choice.providers or due_now:
            self._record(Decided(round=round_, why=choice.why))
        if not choice.providers:
            self.asked, self.nobody = due_now, not due_now
            return
        self.asked = True
        for card in fit:
            self._names[card.id] = card.name
        chosen = [card for card in fit if card.id in choice.providers]
        questions = await self._compute.run(lambda: [self._questions(card) for card in chosen])
        for card, asked in zip(chosen, questions, strict=True):
            self.in_flight += 1
            in_turn = self._fetch(card, [_at(question, at) for question in asked], round_)
            fetching.create_task(in_turn, name=f"{self._me.name}:fetch:{card.name}")

    async def collect(self, *, round_: int) -> None:
        """Hand the answers to the strategy, in id order of the providers. The strategy forgets each provider that gave
        no answer this time."""
        answers, self._answers = self._answers, {}
        taught_by, left = set(), sorted(answers)
        while left:
            for fetch in (fetch for peer in left for fetch in answers[peer]):
                self.reputation.gave(fetch.provider, fetch.version)
            absorbed, refused = await self._compute.run(self._absorb_in_turn, [answers[peer] for peer in left])
            for peer in left[:absorbed]:
                taught_by.add(peer)
                self._backoff.clear(peer)
            if refused is not None:
                await self._refused(answers[left[absorbed]][0].provider, refused, round_)
                absorbed += 1
            left = left[absorbed:]
        for peer in sorted(self.taught_by - taught_by):
            await self._compute.run(self._strategy.forget, peer)
        self.taught_by = taught_by
        self.asked = False

    def reputation_to_save(self) -> Mapping[str, Any]:
        """The reputation as a checkpoint keeps it: during an exchange, as it was before. A resumed peer repeats the
        exchange, and group testing would otherwise count it twice."""
        return self._reputation_before if self.asked or self.nobody else self.reputation.as_tree()

    def names(self, peers: Iterable[str]) -> tuple[str, ...]:
        """Names of these peers, also of peers that have left; the start of the id if the name is not known."""
        return tuple(self._names.get(peer) or peer[:12] for peer in peers)

    async def receive(self, received: Received, *, round_: int) -> bool:
        """Hand knowledge that a consumer brought to the strategy. False if it was malformed or did not fit."""
        self._names[received.sender.id] = received.sender.name
        self.reputation.gave(received.sender, received.knowledge.version)
        try:
            await self._compute.run(self._absorb, received)
        except KnowledgeError as exc:
            await self._refused(received.sender, exc, round_)
            return False
        return True

    async def judge(self, outcome: training.TransferOutcome, *, round_: int) -> None:
        """Update reputations after a transfer; the strategy forgets each provider that is quarantined for it."""
        providers = [PeerId(peer) for peer in outcome.report.providers] or sorted(self.taught_by)
        for peer in self.reputation.judged(providers, outcome, round_=round_):
            await self._forget(peer)

    async def _refused(self, card: Card, error: KnowledgeError, round_: int) -> None:
        self._record(FetchFailed(round=round_, provider=card.name, why=str(error), seconds=0.0))
        await self._forget(self.reputation.refused(card, str(error), round_=round_))

    async def _forget(self, quarantined: PeerId | None) -> None:
        if quarantined is not None:
            await self._compute.run(self._strategy.forget, quarantined)
            self.taught_by.discard(quarantined)

    async def _weigh(self, cards: list[Card]) -> dict[PeerId, str | None]:
        """Why each of these providers cannot teach this learner; None if it can. The strategy is asked, and the reason
        recorded, once per card."""
        found = {card.id: self._misfits.get(card.id, _UNKNOWN) for card in cards}
        new = [card for card in cards if found[card.id][:2] != (card.session, card.serial)]
        if new:
            whys = await self._compute.run(lambda: [training.misfit(self._strategy, self._learner, c) for c in new])
            for card, why in zip(new, whys, strict=True):
                if why is not None and why != found[card.id][2]:
                    self._record(Unfit(provider=card.name, why=why))
                self._misfits[card.id] = found[card.id] = (card.session, card.serial, why)
        return {peer: why for peer, (_, _, why) in found.items()}

    def _questions(self, card: Card) -> Sequence[Question]:
        asked = self._strategy.ask(self._learner, card)
        return [asked] if isinstance(asked, Question) else asked

    async def _fetch(self, card: Card, questions: Sequence[Question], round_: int) -> None:
        """Send all questions to one provider, one after another. A failure ends the series, and the answers before it
        are not used."""
        began = now()
        fetches = []
        try:
            for question in questions:
                began = now()
                fetch = await self._fetcher.fetch(card.id, question, patience=self._patience)
                fetches.append(fetch)
                self._came(fetch, round_, now() - began)
        except (TransferError, WireError, KnowledgeError) as exc:
            self._failed(card, exc, round_, now() - began)
        else:
            self._answers[card.id] = fetches
        finally:
            self.in_flight -= 1
            if not self.in_flight:  # only the last answer wakes the orchestrator: before it there is nothing to do
                self.changed()

    def _came(self, fetch: Fetch, round_: int, seconds: float) -> None:
        t = fetch.traffic
        self._record(
            Fetched(
                round=round_, provider=fetch.provider.name, version=fetch.version, received_bytes=t.received_bytes,
                sent_bytes=t.sent_bytes, body_bytes=t.body_bytes, seconds=seconds, codec=t.codec,
                not_modified=fetch.not_modified,
            )
        )  # fmt: skip

    def _failed(self, card: Card, error: Exception, round_: int, seconds: float) -> None:
        self._backoff.put(card, error)
        self._record(FetchFailed(round=round_, provider=card.name, why=str(error), seconds=seconds))

    def _absorb_in_turn(self, answers: Sequence[Sequence[Fetch]]) -> tuple[int, KnowledgeError | None]:
        """Number of providers whose answers were absorbed, and why those of the next one were not. One call for all: a
        hop to the learner's thread takes longer than absorbing most answers."""
        for number, fetches in enumerate(answers):
            try:
                for fetch in fetches:
                    if fetch.received is not None:
                        self._absorb(fetch.received)
            except KnowledgeError as exc:
                return number, exc
        return len(answers), None

    def _absorb(self, received: Received) -> None:
        with fence(self._learner, received.sender.name), self._learner.tentative():
            self._strategy.absorb(self._learner, [received])


def _at(question: Question, version: int | None) -> Question:
    """The question for this version (lockstep), unchanged if the strategy has already named a version in it."""
    if version is None or question.query.at is not None or question.after is not None:
        return question
    return replace(question, query=replace(question.query, at=version))
