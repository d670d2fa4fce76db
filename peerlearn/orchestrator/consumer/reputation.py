"""The reputation of providers: what came of their knowledge, and which of them are quarantined for it."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from math import isfinite
from typing import Any

from peerlearn.errors import StateError
from peerlearn.events import Quarantined, Record
from peerlearn.orchestrator.consumer.group_testing import REMEMBERED, Exclusion, GroupTesting
from peerlearn.orchestrator.training.gated import TransferOutcome
from peerlearn.status import QuarantinedPeer
from peerlearn.text import one_line
from peerlearn.types import Card, PeerId

CHARS = 200
"""Characters of a complaint: one sentence. The provider keeps no more of it."""


class Reputation:
    """The providers that this consumer has learned from. Lives on the event loop."""

    def __init__(self, complain: Callable[[PeerId, str], None], *, record: Record) -> None:
        """`complain` tells a provider, in one line for its owner, why its knowledge is not used."""
        self._complain = complain
        self._record = record
        self._group_testing = GroupTesting()
        self._givers: dict[PeerId, Card] = {}

    def gave(self, provider: Card, version: int) -> None:
        """Remember that knowledge of this version, from this provider, is about to be used."""
        self._givers[provider.id] = replace(provider, version=version)
        if len(self._givers) > REMEMBERED:
            quarantined = {each.id for each in self.quarantined} | {provider.id}
            del self._givers[next((peer for peer in self._givers if peer not in quarantined), next(iter(self._givers)))]

    def why(self, provider: Card, version: int) -> str | None:
        """Why knowledge of this version is not used; None when it may be."""
        return self._group_testing.why(provider, version)

    def waiting(self, candidates: Collection[PeerId]) -> dict[PeerId, str]:
        """Candidates that this exchange leaves out, each with the reason: other providers are tried without them."""
        limited = self._group_testing.trial(candidates)
        if limited is None:
            return {}
        suspected = bool(limited & self._group_testing.suspects)
        why = (
            "waits while others are tried alone after a rollback" if suspected else "waits to be tried after a rollback"
        )
        return dict.fromkeys(sorted(set(candidates) - limited), why)

    def refused(self, provider: Card, why: str, *, round_: int) -> PeerId | None:
        """Count knowledge that was refused before use. Returns the provider's id when it is quarantined for that."""
        return self._carry_out(self._group_testing.refused(self._giver(provider), why), round_)

    def judged(self, providers: Collection[PeerId], outcome: TransferOutcome, *, round_: int) -> list[PeerId]:
        """Count how a transfer with these providers went; one that was not measured proves nothing. Returns the ids of
        the providers that are quarantined for it."""
        verdict, known = outcome.verdict, [self._givers[peer] for peer in sorted(providers) if peer in self._givers]
        if outcome.failed and known:
            failed = self._carry_out(self._group_testing.failed(known, outcome.failed), round_)
            return [failed] if failed is not None else []
        if verdict is None or not isfinite(verdict.before) or not known:
            return []
        if verdict.kept and outcome.report.committed:
            self._group_testing.kept([card.id for card in known])
            left_out = [self._givers[PeerId(peer)] for peer in outcome.harmful if peer in self._givers]
            exclusions = [self._group_testing.failed([card], outcome.harm) for card in left_out]
        else:
            why = "the method took back what it had made of it" if verdict.kept else verdict.why
            exclusions = [self._group_testing.failed(known, why)]
        return [peer for each in exclusions if (peer := self._carry_out(each, round_)) is not None]

    @property
    def quarantined(self) -> tuple[QuarantinedPeer, ...]:
        """The providers that are quarantined, at the version last seen of each."""
        cards = self._givers.values()
        return tuple(
            QuarantinedPeer(id=c.id, name=c.name, why=why) for c in cards if (why := self.why(c, c.version)) is not None
        )

    def as_tree(self) -> dict[str, Any]:
        """State for a checkpoint: without it, providers would be judged anew after a resume."""
        givers = [[card.id, card.name, card.session, card.version] for card in self._givers.values()]
        return {"givers": givers, "group_testing": self._group_testing.as_tree()}

    def restore(self, tree: Mapping[str, Any]) -> None:
        """Go back to the state that `as_tree` gave; an empty tree changes nothing. Raises StateError for a tree that
        `as_tree` cannot have given."""
        if not tree:
            return
        try:
            self._group_testing.restore(tree["group_testing"])
            self._givers = {
                PeerId(str(id)): Card(id=PeerId(str(id)), name=str(name), session=str(session), version=int(version))
                for id, name, session, version in tree["givers"][:REMEMBERED]
            }
        except (KeyError, TypeError, ValueError) as exc:
            raise StateError(f"who was quarantined cannot be read: {exc}") from exc

    def _giver(self, provider: Card) -> Card:
        return self._givers.setdefault(provider.id, provider)

    def _carry_out(self, exclusion: Exclusion | None, round_: int) -> PeerId | None:
        if exclusion is None:
            return None
        provider = self._givers[exclusion.provider]
        self._record(Quarantined(round=round_, provider=provider.name, why=exclusion.why, until=exclusion.until))
        self._complain(provider.id, one_line(exclusion.why, CHARS))
        return exclusion.provider
