"""Who has taught, how it went, and what follows for them: said in events, and told to the owner of who is put aside."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace
from math import isfinite
from typing import Any

from peerlearn.errors import StateError, TransferError, WireError
from peerlearn.events import Quarantined, Record
from peerlearn.knowledge import Query, Question
from peerlearn.orchestrator.consumer.fetch import Fetcher
from peerlearn.orchestrator.consumer.group_testing import REMEMBERED, Exclusion, GroupTesting
from peerlearn.orchestrator.provider.complaints import printable
from peerlearn.orchestrator.training.gated import TransferOutcome
from peerlearn.status import QuarantinedPeer
from peerlearn.types import Card, PeerId


class Reputation:
    """One consumer's. Lives on the event loop."""

    def __init__(self, fetcher: Fetcher, *, patience: float, record: Record) -> None:
        self._fetcher = fetcher
        self._patience = patience
        self._record = record
        self._group_testing = GroupTesting()
        self._givers: dict[PeerId, Card] = {}

    def gave(self, provider: Card, version: int) -> None:
        """Knowledge of this version is about to be used."""
        self._givers[provider.id] = replace(provider, version=version)
        if len(self._givers) > REMEMBERED:
            quarantined = {each.id for each in self.quarantined} | {provider.id}
            del self._givers[next((peer for peer in self._givers if peer not in quarantined), next(iter(self._givers)))]

    def why(self, provider: Card, version: int) -> str | None:
        """Why this provider, now at this version, is not to be used; None when it may be."""
        return self._group_testing.why(provider, version)

    def waiting(self, candidates: Collection[PeerId]) -> dict[PeerId, str]:
        """Those of the candidates whom this exchange leaves out, each with the reason: others are tried without it."""
        limited = self._group_testing.trial(candidates)
        if limited is None:
            return {}
        suspected = bool(limited & self._group_testing.suspects)
        why = (
            "waits while others are tried alone after a rollback" if suspected else "waits to be tried after a rollback"
        )
        return dict.fromkeys(sorted(set(candidates) - limited), why)

    def refused(self, provider: Card, why: str, tasks: asyncio.TaskGroup, *, round_: int) -> PeerId | None:
        """Its knowledge was refused before use. Its id, when it is put aside for that."""
        return self._carry_out(self._group_testing.refused(self._giver(provider), why), tasks, round_)

    def judged(
        self, providers: Collection[PeerId], outcome: TransferOutcome, tasks: asyncio.TaskGroup, *, round_: int
    ) -> list[PeerId]:
        """How a transfer by these went. Ids of those put aside for it. What was not measured proves nothing."""
        verdict, known = outcome.verdict, [self._givers[peer] for peer in sorted(providers) if peer in self._givers]
        if verdict is None or not isfinite(verdict.before) or not known:
            return []
        if verdict.kept and outcome.report.committed:
            self._group_testing.kept([card.id for card in known])
            left_out = [self._givers[PeerId(peer)] for peer in outcome.harmful if peer in self._givers]
            sentences = [self._group_testing.failed([card], outcome.harm) for card in left_out]
        else:
            why = "the method took back what it had made of it" if verdict.kept else verdict.why
            sentences = [self._group_testing.failed(known, why)]
        return [peer for each in sentences if (peer := self._carry_out(each, tasks, round_)) is not None]

    @property
    def quarantined(self) -> tuple[QuarantinedPeer, ...]:
        """Who is put aside at what was last seen of it."""
        cards = self._givers.values()
        return tuple(
            QuarantinedPeer(id=c.id, name=c.name, why=why) for c in cards if (why := self.why(c, c.version)) is not None
        )

    def as_tree(self) -> dict[str, Any]:
        """For a checkpoint: whom it would otherwise judge anew."""
        givers = [[card.id, card.name, card.session, card.version] for card in self._givers.values()]
        return {"givers": givers, "suspicion": self._group_testing.as_tree()}

    def restore(self, tree: Mapping[str, Any]) -> None:
        """As it was when `as_tree` was called; an empty tree is of a checkpoint that knows nothing of this, and of
        nobody. Raises StateError for nonsense."""
        if not tree:
            return
        try:
            self._group_testing.restore(tree["suspicion"])
            self._givers = {
                PeerId(str(id)): Card(id=PeerId(str(id)), name=str(name), session=str(session), version=int(version))
                for id, name, session, version in tree["givers"][:REMEMBERED]
            }
        except (KeyError, TypeError, ValueError) as exc:
            raise StateError(f"who was put aside cannot be read: {exc}") from exc

    def _giver(self, provider: Card) -> Card:
        return self._givers.setdefault(provider.id, provider)

    def _carry_out(self, sentence: Exclusion | None, tasks: asyncio.TaskGroup, round_: int) -> PeerId | None:
        if sentence is None:
            return None
        provider = self._givers[sentence.provider]
        self._record(Quarantined(round=round_, provider=provider.name, why=sentence.why, until=sentence.until))
        tasks.create_task(self._tell(provider, sentence.why), name=f"complain:{provider.name}")
        return sentence.provider

    async def _tell(self, provider: Card, why: str) -> None:
        """Once per time that it is put aside. An owner who is not there, or does not listen, is not told."""
        question = Question(Query(want="nothing"), complaint=printable(why))
        try:
            await self._fetcher.fetch(provider.id, question, patience=self._patience)
        except (TransferError, WireError):
            return
