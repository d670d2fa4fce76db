"""The figures of some runs, as lines for one screen and as plain objects for programs."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from peerlearn.simulation.world import SimulationResult

_BLOWS = {
    "kill": "power failures", "crash": "programs killed", "leave": "goodbyes", "return": "returns",
    "sleep": "laptops asleep", "part": "partings", "flap": "discovery flaps", "change": "changes of weather",
}  # fmt: skip
"""Faults in the report, by kind."""
_EVENTS = {
    "published": "snapshots", "fetched": "pieces of knowledge fetched", "fetch-failed": "exchanges failed",
    "answered": "questions answered", "refused": "refused", "gated": "transfers judged", "peer": "changes of company",
}  # fmt: skip
"""Events in the report, by kind."""


def lines(outcomes: Sequence[SimulationResult]) -> list[str]:
    """The report as lines of text."""
    first = outcomes[0].scenario
    counts = sum((Counter(outcome.counts) for outcome in outcomes), Counter[str]())
    virtual = sum(outcome.virtual_seconds for outcome in outcomes)
    wall = sum(outcome.wall_seconds for outcome in outcomes)
    known = [outcome.known_after for outcome in outcomes if not math.isnan(outcome.known_after)]
    told = [
        f"{first.peers} peers, {virtual / 3600:.1f} virtual hours in {wall:.1f} s"
        + (f", {len(outcomes)} seeds" if len(outcomes) > 1 else f", seed {first.seed}"),
        _listed("befell them", counts, _BLOWS),
        _listed("they did", counts, _EVENTS),
        f"lives {sum(o.lives for o in outcomes)}, rounds {sum(o.rounds for o in outcomes)}, "
        f"checks {sum(o.checks for o in outcomes)}",
        f"longest call or round {max(o.longest_call for o in outcomes):.1f} s of its machine's time",
    ]
    if known:
        told.append(f"all knew one another {max(known):.0f} s after the last fault, allowed {first.settling:.0f} s")
    if len(outcomes) == 1:
        told.append(f"digest {outcomes[0].digest}")
    told += [f"BREACH at seed {o.scenario.seed}: {o.breach}" for o in outcomes if o.breach is not None]
    if all(outcome.breach is None for outcome in outcomes):
        told.append("every invariant held")
    return told


def as_object(outcome: SimulationResult) -> dict[str, Any]:
    """One run's result as plain values. `breach` is null, or has rule, sentence, virtual seconds and the command that
    replays it."""
    scenario, breach = outcome.scenario, outcome.breach
    return {
        "seed": scenario.seed, "peers": scenario.peers, "hours": scenario.hours, "faults": scenario.faults,
        "beat": scenario.timing.beat, "strategy": scenario.strategy, "digest": outcome.digest,
        "counts": dict(sorted(outcome.counts.items())), "checks": outcome.checks, "lives": outcome.lives,
        "rounds": outcome.rounds, "known_after": outcome.known_after, "known_within": scenario.settling,
        "longest_call": outcome.longest_call, "virtual_seconds": outcome.virtual_seconds,
        "wall_seconds": outcome.wall_seconds,
        "breach": None if breach is None else {
            "rule": breach.rule, "sentence": breach.sentence, "at": breach.at, "replay": scenario.command,
        },
    }  # fmt: skip


def _listed(what: str, counts: Counter[str], names: dict[str, str]) -> str:
    return f"{what}: " + (", ".join(f"{counts[kind]} {name}" for kind, name in names.items() if counts[kind]) or "-")
