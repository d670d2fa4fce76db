"""Local spans that can be stopped at any step without harm to what is saved. Runs on the learner's thread."""

from collections.abc import Callable

from peerlearn.learning import state
from peerlearn.learning.interruption import Interrupted
from peerlearn.learning.learner import Learner
from peerlearn.learning.report import Report
from peerlearn.strategies.base import Strategy
from peerlearn.types import Span, steps


def local(strategy: Strategy, learner: Learner, span: Span, *, into: int, between: Callable[[], None] | None) -> Report:
    """A span of which `into` steps were made before this process began. `between`, called between two steps, may save
    what there is; None: nothing is ever saved.

    Interrupted, a span that is divisible has come as far as the learner's steps say; any other has not happened.
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
