"""Local spans that can be interrupted at any step without harm to checkpoints. Runs on the learner's thread."""

from collections.abc import Callable

from peerlearn.learning import state
from peerlearn.learning.interruption import Interrupted
from peerlearn.learning.learner import Learner
from peerlearn.learning.report import Report
from peerlearn.strategies.base import Strategy
from peerlearn.types import Span, steps


def local(strategy: Strategy, learner: Learner, span: Span, *, into: int, between: Callable[[], None] | None) -> Report:
    """Run a local span, of which a resumed run has made `into` optimizer steps already. `between` is called between two
    steps and may save a checkpoint; None: the run is never saved.

    Raises Interrupted. A resumable strategy has then come as far as the learner's step count says; with any other, the
    span is rolled back.
    """
    if between is None:
        return strategy.local(learner, span)
    if not strategy.resumable:
        return _whole(strategy, learner, span)
    learner.between = between
    try:
        return strategy.local(learner, steps(max(0, learner.count(span) - into)) if into else span)
    finally:
        learner.between = None


def _whole(strategy: Strategy, learner: Learner, span: Span) -> Report:
    before = state.tree(strategy.state_dict())
    try:
        with learner.tentative():
            return strategy.local(learner, span)
    except Interrupted:
        strategy.load_state_dict(before)
        raise
