"""What methods with teachers have in common: a provider's parameters as a network, checked before it teaches."""

import math

import torch
from torch import Tensor

from peerlearn.errors import ConfigError, KnowledgeError
from peerlearn.knowledge import Knowledge, Params
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
    if knowledge.architecture != learner.architecture:
        raise KnowledgeError(
            f"parameters of architecture {knowledge.architecture[:12]!r}, this model is {learner.architecture[:12]!r}"
        )
    network = learner.build(learner.check_whole(knowledge.tensors))
    if not bool(torch.isfinite(learner.logits(learner.sample(_TRIED_ON), model=network)).all()):
        raise KnowledgeError("the network made of these parameters gives outputs that are not finite")


def dense(knowledge: Knowledge) -> dict[str, Tensor]:
    """The tensors of knowledge that was checked to be dense when it was absorbed."""
    return {name: tensor for name, tensor in knowledge.tensors.items() if isinstance(tensor, Tensor)}
