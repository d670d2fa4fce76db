"""Whom to learn from, by what the cards say (pairwise paper, appendix A). Pure; every choice has its reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peerlearn.types import Card, PeerId


@dataclass(frozen=True, slots=True)
class Merit:
    """What a provider promises a consumer, each part between 0 and 1.

    `difference`: it has seen classes that I lack (X_a minus X_b); `intersection`: and classes that I know too;
    `layers`: share of my layers that it has with the same name, kind and shape; `amount`: its samples beside mine.
    Class parts are 0.5 when either side does not show its histogram.
    """

    difference: float
    intersection: float
    layers: float
    amount: float

    @property
    def score(self) -> float:
        """Classes that I lack weigh most; the rest breaks ties between providers of like promise."""
        return self.difference + 0.25 * self.intersection + 0.15 * self.layers + 0.1 * self.amount


@dataclass(frozen=True, slots=True)
class Choice:
    providers: tuple[PeerId, ...]
    why: str


def merit(me: Card, provider: Card) -> Merit:
    mine, theirs = set(me.layers), set(provider.layers)
    layers = len(mine & theirs) / len(mine) if mine else 0.0
    if not me.histogram or len(me.histogram) != len(provider.histogram):
        return Merit(0.5, 0.5, layers, 0.5)
    most_mine, most_theirs = max(me.histogram) or 1, max(provider.histogram) or 1
    have = [count / most_mine for count in me.histogram]
    offer = [count / most_theirs for count in provider.histogram]
    offered = sum(offer) or 1.0
    difference = sum((1 - h) * o for h, o in zip(have, offer, strict=True)) / offered
    total = sum(me.histogram) + sum(provider.histogram)
    return Merit(difference, 1 - difference, layers, sum(provider.histogram) / (total or 1))


def choose(me: Card, candidates: Sequence[Card], *, aside: Mapping[PeerId, str], most: int | None = None) -> Choice:
    """The `most` best candidates (all when None), best first by merit, ties by id; returned in id order.

    `aside` holds those that cannot or may not be asked now, each with its reason.
    """
    names = {card.id: card.name or card.id[:8] for card in candidates}
    fit = [card for card in candidates if card.id not in aside]
    merits = {card.id: merit(me, card) for card in fit}
    ranked = sorted(fit, key=lambda card: (-merits[card.id].score, card.id))
    chosen = ranked[:most]
    parts = [f"asking {names[c.id]} ({_in_words(merits[c.id])})" for c in chosen]
    parts += [f"not {names[c.id]} ({_in_words(merits[c.id])}; {most} is the most)" for c in ranked[len(chosen) :]]
    parts += [f"not {names[peer]} ({aside[peer]})" for peer in sorted(aside) if peer in names]
    why = "; ".join(parts) if parts else "nobody to learn from is here"
    return Choice(tuple(sorted(card.id for card in chosen)), why)


def _in_words(merit: Merit) -> str:
    return (
        f"score {merit.score:.2f}: classes I lack {merit.difference:.2f}, shared {merit.intersection:.2f}, "
        f"layers {merit.layers:.2f}, amount {merit.amount:.2f}"
    )
