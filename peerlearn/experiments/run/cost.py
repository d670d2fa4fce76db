"""What a network costs to run, and what a round of feature exchange costs to send."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from peerlearn.learning.state import in_mode, persistent


@dataclass(frozen=True, slots=True)
class Cost:
    """`flops`: floating-point operations of one forward pass for one sample, two per multiply-add; convolutions and
    matrix products only."""

    parameters: int
    flops: int


def cost(model: nn.Module, x: Tensor) -> Cost:
    """Of a model for inputs x (B, ...), B >= 1."""
    with FlopCounterMode(display=False) as counter, in_mode(model, training=False), torch.no_grad():
        model(x)
    return Cost(sum(p.numel() for p in model.parameters()), counter.get_total_flops() // len(x))


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureTraffic:
    """Bytes of tensors that one edge sends and receives per round, without headers (FedGKT, section 7.3).

    `feature`: elements of one feature map.
    """

    samples: int
    feature: int
    classes: int
    feature_bytes: int = 4
    label_bytes: int = 1

    ID_BYTES = 8
    LOGIT_BYTES = 4

    @property
    def up(self) -> int:
        """Features, logits, labels and ids of every sample."""
        logits = self.classes * self.LOGIT_BYTES
        return self.samples * (self.feature * self.feature_bytes + logits + self.label_bytes + self.ID_BYTES)

    @property
    def down(self) -> int:
        """The hub's logits and the ids of every sample."""
        return self.samples * (self.classes * self.LOGIT_BYTES + self.ID_BYTES)

    def split_learning(self, local_epochs: int = 1) -> int:
        """What split learning sends in the same round: a feature map up and its gradient down, float32, for every
        sample in every local epoch."""
        return 2 * 4 * self.feature * self.samples * local_epochs


def averaging_bytes(model: nn.Module) -> int:
    """What a peer of federated averaging sends and receives per round: the whole state up and down."""
    return 2 * sum(tensor.nbytes for tensor in persistent(model).values())
