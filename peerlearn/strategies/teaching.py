"""What methods with teachers have in common: a provider's parameters as a network, checked before it teaches."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from peerlearn.errors import ConfigError, KnowledgeError
from peerlearn.knowledge import Knowledge, Params
from peerlearn.learning import state
from peerlearn.learning.learner import Learner

_TRIED_ON = 64


def check_weights(strategy: str, alpha: float, temperature: float) -> None:
    """Raises ConfigError for an alpha outside 0..1 or a temperature that is not positive."""
    if not 0 <= alpha <= 1:
        raise ConfigError(f"{strategy}: alpha must lie between 0 and 1, not {alpha}")
    if not 0 < temperature < math.inf:
        raise ConfigError(f"{strategy}: temperature must be positive, not {temperature}")


def check_teacher(learner: Learner, knowledge: Params) -> None:
    """Raises KnowledgeError unless these are all tensors of the learner's own architecture, finite, and the network
    made of them gives finite logits on a few private samples: huge but finite weights can do without."""
    _check_architecture(learner, knowledge)
    _check_outputs(learner, learner.build(learner.check_whole(knowledge.tensors)))


def dense(knowledge: Knowledge) -> dict[str, Tensor]:
    """The tensors of knowledge that was checked to be dense when it was absorbed."""
    return {name: tensor for name, tensor in knowledge.tensors.items() if isinstance(tensor, Tensor)}


def check_layers(learner: Learner, knowledge: Params, layers: Sequence[str]) -> None:
    """Raises KnowledgeError unless these are all tensors of just these layers of the learner's own architecture."""
    _check_architecture(learner, knowledge)
    wanted = {name: t for name, t in learner.state.items() if any(name.startswith(f"{layer}.") for layer in layers)}
    fitting = state.check_fit(knowledge.tensors, wanted, whole=True)
    network = learner.build({**learner.state, **fitting})
    _check_outputs(learner, network)


def _check_architecture(learner: Learner, knowledge: Params) -> None:
    if knowledge.architecture != learner.architecture:
        raise KnowledgeError(
            f"parameters of architecture {knowledge.architecture[:12]!r}, this model is {learner.architecture[:12]!r}"
        )


def _check_outputs(learner: Learner, network: nn.Module) -> None:
    if not bool(torch.isfinite(learner.logits(learner.sample(_TRIED_ON), model=network)).all()):
        raise KnowledgeError("the network made of these parameters gives outputs that are not finite")
