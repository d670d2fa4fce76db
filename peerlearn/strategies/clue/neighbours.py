"""Choice of providers for a drifting peer: those with a similar class distribution that have the classes it lacks.

CLUE (Daga et al.), section 5.1: "logical neighbours", by the cosine of class priors. Pure functions.
"""

import math
from collections.abc import Sequence
from typing import Literal

from peerlearn.learning.sampler import derived
from peerlearn.types import Card

Likeness = Literal["similar", "least-first", "random"]
"""How candidates are ranked, see `to_ask`."""
SHARE = 0.01
"""A class with less than this share of a provider's samples counts as unseen: too few to have learned it."""


def cosine(one: Sequence[float], two: Sequence[float]) -> float:
    """Cosine of two histograms; 0 when one of them is empty or their lengths differ."""
    if len(one) != len(two):
        return 0.0
    length = math.hypot(*one) * math.hypot(*two)
    return sum(a * b for a, b in zip(one, two, strict=True)) / length if length else 0.0


def covered(card: Card, wanted: Sequence[int]) -> tuple[int, ...]:
    """The classes out of `wanted` of which this provider has seen enough samples."""
    least = SHARE * sum(card.histogram)
    return tuple(c for c in wanted if c < len(card.histogram) and card.histogram[c] >= max(least, 1))


def to_ask(
    prior: Sequence[int], wanted: Sequence[int], candidates: Sequence[Card], *, likeness: Likeness, most: int, lot: str
) -> list[str]:
    """Ids of the providers to ask, best first: at most `most` of those that have all wanted classes. If there are none,
    as few as possible that together have them all.

    `likeness` similar ranks by cosine. The others are controls that ignore classes: `least-first` ranks in reverse,
    `random` by a hash with the text `lot`.
    """
    near = {card.id: cosine(prior, card.histogram) for card in candidates}
    if likeness == "least-first":
        return [card.id for card in sorted(candidates, key=lambda c: (near[c.id], c.id))[:most]]
    if likeness == "random":
        return [card.id for card in sorted(candidates, key=lambda c: derived(lot, c.id))[:most]]
    ranked = sorted(candidates, key=lambda c: (-near[c.id], c.id))
    whole: list[str] = [card.id for card in ranked if len(covered(card, wanted)) == len(wanted)]
    return whole[:most] or [card.id for card in _cover(ranked, set(wanted))]


def _cover(ranked: Sequence[Card], wanted: set[int]) -> list[Card]:
    """Greedy cover: takes the provider that adds most classes, and among equals the one ranked first."""
    chosen: list[Card] = []
    while wanted:
        best = max(ranked, key=lambda card: len(wanted.intersection(covered(card, tuple(wanted)))), default=None)
        gained = wanted.intersection(covered(best, tuple(wanted))) if best is not None else set()
        if best is None or not gained:
            break
        chosen.append(best)
        wanted = wanted - gained
    return chosen
