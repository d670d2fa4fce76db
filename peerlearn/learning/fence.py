"""A fence around received knowledge: an error that the knowledge causes in other code is blamed on its sender.

Knowledge that passed every check can still make a user's forward, or a library, raise. Examples are an index buffer
that points outside its table, and a matrix whose decomposition fails. An error that also occurs without the knowledge
is the app's own.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from peerlearn.errors import KnowledgeError
from peerlearn.learning.interruption import Interrupted
from peerlearn.learning.learner import Learner

log = logging.getLogger("peerlearn")

_SAMPLES = 2
"""Private samples on which the model is tried after a failure. BatchNorm and similar layers need more than one."""

_SAID_CHARS = 200
"""Characters of the error's text that are reported. Some libraries print whole tensors into their messages."""


class HarmfulKnowledge(KnowledgeError):
    """Using a provider's knowledge made code fail that works without it."""


@contextmanager
def fence(learner: Learner, sender: str) -> Iterator[None]:
    """A block in which knowledge of `sender` is used.

    Raises HarmfulKnowledge in place of an error that the learner's model raises only with that knowledge.
    KnowledgeError and Interrupted pass. The fence undoes nothing: wrap the block in `learner.tentative()`.
    """
    try:
        yield
    except (KnowledgeError, Interrupted):
        raise
    except Exception as exc:
        if not _works(learner):
            raise
        said = " ".join(str(exc).split())[:_SAID_CHARS]
        log.debug("knowledge of %s made this fail", sender, exc_info=exc)
        raise HarmfulKnowledge(f"knowledge of {sender} makes this model fail: {type(exc).__name__}: {said}") from exc


def _works(learner: Learner) -> bool:
    """True if the model computes on private samples in its present state, without the knowledge."""
    try:
        learner.logits(learner.sample(_SAMPLES))
    except Exception:  # noqa: BLE001  the app's own code may raise anything; the caller raises the first error
        return False
    return True
