"""Checks for methods with teachers: a provider's parameters as a network, before it teaches."""

import math
from collections.abc import Sequence

from torch import Tensor

from peerlearn.errors import ConfigError, KnowledgeError
from peerlearn.knowledge import Knowledge, Params
from peerlearn.learning import plausible, state
from peerlearn.learning.learner import Learner


def check_weights(strategy: str, alpha: float, temperature: float) -> None:
    """Raises ConfigError for an alpha outside 0..1 or a temperature that is not positive."""
    if not 0 <= alpha <= 1:
        raise ConfigError(f"{strategy}: alpha must lie between 0 and 1, not {alpha}")
    if not 0 < temperature < math.inf:
        raise ConfigError(f"{strategy}: temperature must be positive, not {temperature}")


def check_teacher(learner: Learner, knowledge: Params, *, seen: Sequence[int] = (), labels: bool = True) -> None:
    """Raises KnowledgeError unless these are all tensors of the learner's own architecture, finite and of plausible
    scale, and their network gives plausible outputs on the learner's samples (learning/plausible.py).

    `seen`: the teacher's samples per class, from its card. `labels` False: its answers need not be right.
    """
    _check_architecture(learner, knowledge)
    own = learner.state
    whole = state.check_fit(knowledge.tensors, own, whole=True)
    plausible.check_scale(whole, own)
    plausible.check_network(learner, learner.trial(whole), seen=seen, labels=labels)


def dense(knowledge: Knowledge) -> dict[str, Tensor]:
    """The tensors of knowledge that was checked to be dense on arrival."""
    return {name: tensor for name, tensor in knowledge.tensors.items() if isinstance(tensor, Tensor)}


def check_layers(learner: Learner, knowledge: Params, layers: Sequence[str]) -> None:
    """Raises KnowledgeError unless these are all tensors of exactly these layers of the learner's own architecture,
    finite and of plausible scale."""
    _check_architecture(learner, knowledge)
    own = learner.state
    wanted = {name: t for name, t in own.items() if any(name.startswith(f"{layer}.") for layer in layers)}
    fitting = state.check_fit(knowledge.tensors, wanted, whole=True)
    plausible.check_scale(fitting, own)
    plausible.check_network(learner, learner.trial({**own, **fitting}), labels=False)


def _check_architecture(learner: Learner, knowledge: Params) -> None:
    if knowledge.architecture != learner.architecture:
        raise KnowledgeError(
            f"parameters of architecture {knowledge.architecture[:12]!r}, this model is {learner.architecture[:12]!r}"
        )
