"""Two ways in which training stops early that the caller is expected to handle."""

from peerlearn.errors import LearnerError


class Interrupted(Exception):
    """Another thread called `Learner.interrupt()`. Raised between two steps: the model is whole."""


class Diverged(LearnerError):
    """The loss is not finite any more. The step that would have used it was not made."""
