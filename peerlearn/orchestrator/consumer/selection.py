"""Selection of providers by their cards (pairwise paper, appendix A). Pure; every choice is given with its reason."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peerlearn.types import Card, PeerId


@dataclass(frozen=True, slots=True)
class Merit:
    """Expected use of a provider to a consumer, in four parts between 0 and 1.

    `difference`, `intersection` and `amount` are 0.5 if either side does not show its class counts.
    """

    difference: float
    """Share of the provider's samples that are of classes the consumer lacks (X_a minus X_b in the paper)."""
    intersection: float
    """Share of the provider's samples that are of classes the consumer knows too."""
    layers: float
    """Share of the consumer's layers that the provider has with the same name, kind and shape."""
    amount: float
    """The provider's samples as a share of both peers' samples."""

    @property
    def score(self) -> float:
        """Weighted sum: classes that the consumer lacks count most, the rest decides between similar providers."""
        # The smaller weights add up to half the large one: the rest makes up for at most 0.5 of difference.
        return self.difference + 0.25 * self.intersection + 0.15 * self.layers + 0.1 * self.amount


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen providers, in id order, and a line that explains every candidate's place."""

    providers: tuple[PeerId, ...]
    why: str


def merit(me: Card, provider: Card) -> Merit:
    """The merit of this provider for the consumer `me`, from their cards. Class counts are compared as shares of each
    side's largest class, since one side may have far more samples."""
    mine, theirs = set(me.layers), set(provider.layers)
    layers = len(mine & theirs) / len(mine) if mine else 0.0
    if not me.histogram or len(me.histogram) != len(provider.histogram):
        return Merit(0.5, 0.5, layers, 0.5)  # unknown: the middle, neither for nor against the provider
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
    unavailable: Mapping[PeerId, str],
    preferred: Sequence[str] | None = None,
    most: int | None = None,
    draw: str = "",
    pairs: str = "",
) -> Choice:
    """Choose the `most` best candidates (None: all) and return them in id order.

    unavailable: candidates that cannot or may not be asked now, each with the reason.
    preferred: the strategy's own ranking, best first; None if it has none. It overrides all other rules.
    draw: text that seeds a random order; empty: no random order.
    pairs: text that seeds a random division into pairs; only the partner of `me` is chosen. Peers that use the same
        text and know the same peers agree on the pairs. Empty: no pairs.

    Without any of these, merit decides, and ids break ties.
    """
    names = {card.id: card.name or card.id[:8] for card in candidates}
    fit = [card for card in candidates if card.id not in unavailable]
    ranked = _paired(me, fit, pairs) if pairs and preferred is None else _ranked(me, fit, preferred, draw)
    chosen, left = ranked[:most], ranked[most:] if most is not None else []
    parts = [f"asking {names[peer]} ({why})" for peer, why in chosen]
    parts += [f"not {names[peer]} ({why}; {most} at most)" for peer, why in left]
    parts += [f"not {names[peer]} ({unavailable[peer]})" for peer in sorted(unavailable) if peer in names]
    parts += ["sitting out: the number of peers is odd"] if fit and pairs and not ranked else []
    why = "; ".join(parts) if parts else "nobody to learn from is here"
    return Choice(tuple(sorted(peer for peer, _ in chosen)), why)


def _ranked(me: Card, fit: Sequence[Card], preferred: Sequence[str] | None, draw: str) -> list[tuple[PeerId, str]]:
    """Ids of the candidates, best first, each with the reason for its place."""
    ids = {card.id for card in fit}
    if preferred is not None:
        wanted = [PeerId(peer) for peer in preferred if peer in ids]
        return [(peer, f"choice {rank} of the strategy") for rank, peer in enumerate(wanted, 1)]
    if draw:
        return [(card.id, "by lot") for card in _drawn(fit, draw)]
    merits = {card.id: merit(me, card) for card in fit}
    best = sorted(ids, key=lambda peer: (-merits[peer].score, peer))
    return [(peer, _in_words(merits[peer])) for peer in best]


def _paired(me: Card, fit: Sequence[Card], pairs: str) -> list[tuple[PeerId, str]]:
    """The partner of `me`, if there is one: all peers in a random order, paired two by two."""
    drawn = _drawn([me, *fit], pairs)
    partner = drawn.index(me) ^ 1  # positions 0 and 1, 2 and 3, ... are partners
    return [(drawn[partner].id, "drawn as a pair")] if partner < len(drawn) else []


def _drawn(cards: Sequence[Card], draw: str) -> list[Card]:
    """The cards in a random order seeded by the text `draw`. Names are hashed, not ids: a run repeated with other
    signing keys gives the same order."""
    return sorted(cards, key=lambda card: (hashlib.sha256(f"{draw}:{card.name}".encode()).digest(), card.id))


def _in_words(merit: Merit) -> str:
    return (
        f"score {merit.score:.2f}: classes I lack {merit.difference:.2f}, shared {merit.intersection:.2f}, "
        f"layers {merit.layers:.2f}, amount {merit.amount:.2f}"
    )
