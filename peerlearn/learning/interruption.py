"""The two exceptions that stop training early and that callers are expected to handle."""

from peerlearn.errors import LearnerError


class Interrupted(Exception):
    """Another thread called `Learner.interrupt()`. Raised between two steps, so the model is in a whole state."""


class Diverged(LearnerError):
    """The loss, or the model's outputs, are not finite. A loss is checked before the optimizer step that would use
    it."""
