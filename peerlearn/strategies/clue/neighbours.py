"""Whom a drifting peer asks: those whose classes are distributed like its own, if they have the classes it lacks.

CLUE (Daga et al.), section 5.1: "logical neighbours", by the cosine of class priors. Pure.
"""

import math
from collections.abc import Sequence
from typing import Literal

from peerlearn.learning.sampler import derived
from peerlearn.types import Card

Likeness = Literal["similar", "least-first", "random"]
SHARE = 0.01
"""A class of which a provider has seen less than this share counts as not seen."""


def cosine(one: Sequence[float], two: Sequence[float]) -> float:
    """Of two histograms; 0 when one of them is empty or their lengths differ."""
    if len(one) != len(two):
        return 0.0
    length = math.hypot(*one) * math.hypot(*two)
    return sum(a * b for a, b in zip(one, two, strict=True)) / length if length else 0.0


def covered(card: Card, wanted: Sequence[int]) -> tuple[int, ...]:
    """Those of the classes that this provider has seen in earnest."""
    least = SHARE * sum(card.histogram)
    return tuple(c for c in wanted if c < len(card.histogram) and card.histogram[c] >= max(least, 1))


def to_ask(
    prior: Sequence[int], wanted: Sequence[int], candidates: Sequence[Card], *, likeness: Likeness, most: int, lot: str
) -> list[str]:
    """Ids, best first: at most `most` of those that have all the classes; if there are none, as few as possible that
    have them all between them. `least-first` and `random` (by the text `lot`) do not look at classes: controls."""
    near = {card.id: cosine(prior, card.histogram) for card in candidates}
    if likeness == "least-first":
        return [card.id for card in sorted(candidates, key=lambda c: (near[c.id], c.id))[:most]]
    if likeness == "random":
        return [card.id for card in sorted(candidates, key=lambda c: derived(lot, c.id))[:most]]
    ranked = sorted(candidates, key=lambda c: (-near[c.id], c.id))
    whole: list[str] = [card.id for card in ranked if len(covered(card, wanted)) == len(wanted)]
    return whole[:most] or [card.id for card in _cover(ranked, set(wanted))]


def _cover(ranked: Sequence[Card], wanted: set[int]) -> list[Card]:
    """Greedily: the one that adds most classes, the first in rank of equals."""
    chosen: list[Card] = []
    while wanted:
        best = max(ranked, key=lambda card: len(wanted.intersection(covered(card, tuple(wanted)))), default=None)
        gained = wanted.intersection(covered(best, tuple(wanted))) if best is not None else set()
        if best is None or not gained:
            break
        chosen.append(best)
        wanted = wanted - gained
    return chosen
