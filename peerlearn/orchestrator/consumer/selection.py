"""Whom to learn from, by what the cards say (pairwise paper, appendix A). Pure; every choice has its reason."""

import hashlib
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


def choose(
    me: Card,
    candidates: Sequence[Card],
    *,
    aside: Mapping[PeerId, str],
    preferred: Sequence[str] | None = None,
    most: int | None = None,
    lot: str = "",
    pairs: str = "",
) -> Choice:
    """The `most` best candidates (all when None), best first; returned in id order.

    `aside` holds those that cannot or may not be asked now, each with its reason. Best is what the strategy prefers,
    if it has a preference; else a lot, drawn from the text `lot` if one is given; else the one partner with whom the
    text `pairs` joins me, which joins all who use the same text and see the same company; else merit. Ties go by id.
    """
    names = {card.id: card.name or card.id[:8] for card in candidates}
    fit = [card for card in candidates if card.id not in aside]
    ranked = _paired(me, fit, pairs) if pairs and preferred is None else _ranked(me, fit, preferred, lot)
    chosen, left = ranked[:most], ranked[most:] if most is not None else []
    parts = [f"asking {names[peer]} ({why})" for peer, why in chosen]
    parts += [f"not {names[peer]} ({why}; {most} at most)" for peer, why in left]
    parts += [f"not {names[peer]} ({aside[peer]})" for peer in sorted(aside) if peer in names]
    parts += ["sitting out: the number of peers is odd"] if fit and pairs and not ranked else []
    why = "; ".join(parts) if parts else "nobody to learn from is here"
    return Choice(tuple(sorted(peer for peer, _ in chosen)), why)


def _ranked(me: Card, fit: Sequence[Card], preferred: Sequence[str] | None, lot: str) -> list[tuple[PeerId, str]]:
    """Ids, best first, each with its reason."""
    ids = {card.id for card in fit}
    if preferred is not None:
        wanted = [PeerId(peer) for peer in preferred if peer in ids]
        return [(peer, f"choice {rank} of the strategy") for rank, peer in enumerate(wanted, 1)]
    if lot:
        return [(card.id, "by lot") for card in _drawn(fit, lot)]
    merits = {card.id: merit(me, card) for card in fit}
    best = sorted(ids, key=lambda peer: (-merits[peer].score, peer))
    return [(peer, _in_words(merits[peer])) for peer in best]


def _paired(me: Card, fit: Sequence[Card], pairs: str) -> list[tuple[PeerId, str]]:
    """The one partner, or nobody: all, in the order of a draw, two by two."""
    drawn = _drawn([me, *fit], pairs)
    partner = drawn.index(me) ^ 1
    return [(drawn[partner].id, "drawn as a pair")] if partner < len(drawn) else []


def _drawn(cards: Sequence[Card], lot: str) -> list[Card]:
    """In an order that the text `lot` decides: by name, so that a run can be repeated with other keys."""
    return sorted(cards, key=lambda card: (hashlib.sha256(f"{lot}:{card.name}".encode()).digest(), card.id))


def _in_words(merit: Merit) -> str:
    return (
        f"score {merit.score:.2f}: classes I lack {merit.difference:.2f}, shared {merit.intersection:.2f}, "
        f"layers {merit.layers:.2f}, amount {merit.amount:.2f}"
    )
