"""Functions on the learner's thread around a strategy: scoring, the gated transfer, snapshots. Plain torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from peerlearn.learning import evaluate, state
from peerlearn.learning.fence import fence
from peerlearn.learning.learner import Learner
from peerlearn.learning.prior import Dial, Prior
from peerlearn.learning.report import Report
from peerlearn.learning.snapshot import Snapshot
from peerlearn.orchestrator.training.gate import Gate, Verdict
from peerlearn.strategies.base import Separable, Strategy
from peerlearn.types import Card, Span

Predict = Callable[[Tensor], Tensor]
"""A function from inputs (B, ...) to probabilities (B, C)."""


_MIXTURES = 64
"""Upper bound on the mixtures measured in a search for harmful providers: each costs one averaging and one pass over
the held-out data. More would find several liars among many providers, but hold up the round."""


@dataclass(frozen=True, slots=True)
class TransferOutcome:
    """Result of one transfer."""

    report: Report
    verdict: Verdict | None
    """None if the transfer did nothing, so that there was nothing to judge."""
    harmful: tuple[str, ...] = ()
    """Ids of the providers whose knowledge was left out, because the transfer failed with it and was kept without."""
    harm: str = ""
    """What the knowledge in `harmful` did, in a sentence."""
    failed: str = ""
    """Why the transfer could not be made at all, if the providers' knowledge caused it."""


class _TakenBack(Exception):
    """Raised inside `learner.tentative()` to roll the learner back."""

    def __init__(self, outcome: TransferOutcome) -> None:
        self.outcome = outcome


def gated_transfer(strategy: Strategy, learner: Learner, span: Span, gate: Gate) -> TransferOutcome:
    """Measure, transfer, measure again, and keep or roll back. After a rollback the model, optimizer, random generators
    and the strategy's own state are the same bits as before.

    If a mixture of several providers' knowledge fails, it is tried again without the provider that does most harm, then
    without two, and so on while at least half of the providers are left.
    """
    with fence(learner, "the providers"):
        outcome = _tried(strategy, learner, gate, lambda: strategy.transfer(learner, span))
    if not isinstance(strategy, Separable):
        return outcome
    try:
        failed = outcome.verdict is not None and not outcome.verdict.kept
        return (_separated(strategy, strategy, learner, gate, outcome) if failed else None) or outcome
    finally:
        strategy.transfer_done()


def _tried(
    strategy: Strategy, learner: Learner, gate: Gate, transfer: Callable[[], Report], *, only_looking: bool = False
) -> TransferOutcome:
    """One transfer, measured; rolled back if the gate says so or it raises. `only_looking`: always rolled back."""
    before_state = state.tree(strategy.state_dict())
    try:
        with learner.tentative():
            before = score(strategy, learner, gate)
            report = transfer()
            if not report.providers and not report.steps:
                return TransferOutcome(report, None)
            verdict = gate.judge(before, score(strategy, learner, gate))
            if not verdict.kept or only_looking:
                raise _TakenBack(TransferOutcome(report, verdict))
            return TransferOutcome(report, verdict)
    except _TakenBack as taken_back:
        strategy.load_state_dict(before_state)
        return taken_back.outcome
    except BaseException:
        strategy.load_state_dict(before_state)
        raise


def _separated(
    strategy: Strategy, mixture: Separable, learner: Learner, gate: Gate, failed: TransferOutcome
) -> TransferOutcome | None:
    """The transfer without the providers that do harm; None if leaving out half of the providers does not help."""
    everybody, absent, measured = sorted(failed.report.providers), frozenset[str](), 0
    while len(absent) < len(everybody) // 2:
        best, least = -1.0, absent
        for without in [absent | {peer} for peer in everybody if peer not in absent]:
            measured += 1
            repeat = partial(mixture.transfer_without, learner, without)
            verdict = _tried(strategy, learner, gate, repeat, only_looking=True).verdict
            if verdict is None or measured > _MIXTURES:
                return None
            if verdict.after > best:
                best, least = verdict.after, without
        if least == absent:
            return None
        absent = least
        kept = _tried(strategy, learner, gate, partial(mixture.transfer_without, learner, absent))
        if kept.verdict is not None and kept.verdict.kept:
            harm = f"{failed.verdict.why if failed.verdict is not None else ''}; without it {kept.verdict.after:.3f}"
            return replace(kept, harmful=tuple(sorted(absent)), harm=harm)
    return None


def score(strategy: Strategy, learner: Learner, gate: Gate) -> float:
    """The gate's metric on held-out private data, from 0 to 1; nan if the gate is off or nothing is held out."""
    if gate.metric == "off" or learner.held_out is None:
        return float("nan")
    x, y = learner.held_out.x, learner.held_out.y
    confusion = evaluate.confusion(strategy.predict(learner, x), y, classes=learner.classes)
    return evaluate.balanced_accuracy(confusion) if gate.metric == "balanced" else evaluate.accuracy(confusion)


def measured(
    strategy: Strategy, learner: Learner, measure: Callable[[Predict], Mapping[str, float]]
) -> Mapping[str, float]:
    """The app's own metrics of the strategy's predictions."""
    return measure(lambda x: strategy.predict(learner, x))


def turned(strategy: Strategy, learner: Learner, x: Tensor, prior: Prior, dial: Dial | None) -> Tensor:
    """Probabilities (B, C) under the class frequencies of `prior`. Without a fitted dial, the learner's class counts
    are used."""
    if prior == "local":
        return strategy.predict(learner, x)
    fitted = dial if dial is not None else Dial.of(strategy.histogram(learner))
    return fitted.turned(strategy.predict(learner, x), prior)


def calibrated(strategy: Strategy, learner: Learner) -> Dial:
    """A dial fitted to the learner's class counts and to the strategy's predictions for held-out samples."""
    dial, held = Dial.of(strategy.histogram(learner)), learner.held_out
    return dial if held is None else dial.calibrated(strategy.predict(learner, held.x), held.y)


def snapshot(strategy: Strategy, learner: Learner, version: int) -> tuple[Snapshot, tuple[int, ...]]:
    """A snapshot of the learner with this version, and its class counts (C,)."""
    return learner.snapshot(version, strategy.publish(learner)), strategy.histogram(learner)


def misfit(strategy: Strategy, learner: Learner, provider: Card) -> str | None:
    """Why this provider cannot teach this learner, in a sentence; None if it can. Exposures are checked before the
    strategy's own conditions."""
    if provider.strategy != strategy.name:
        return f"{provider.name} answers by {provider.strategy or 'no strategy'}, this peer asks by {strategy.name}"
    missing = strategy.needs - provider.exposes
    if missing:
        return (
            f"{strategy.name} needs a provider that shows {_listed(strategy.needs)}; "
            f"{provider.name} shows {_listed(provider.exposes)}"
        )
    return strategy.misfit(learner, provider)


def _listed(exposures: frozenset[str]) -> str:
    return ", ".join(sorted(exposures)) or "nothing"
