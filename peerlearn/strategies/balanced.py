"""Learning alone with class-balanced cross-entropy: a control for every method that leads a model from its own
classes towards all classes. Rare classes count as much as frequent ones, and no other peer is asked."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peerlearn.errors import LearnerError
from peerlearn.learning import losses
from peerlearn.learning.learner import Batch, Learner
from peerlearn.learning.report import Report
from peerlearn.strategies.isolated import Isolated
from peerlearn.types import Span


@dataclass
class IsolatedBalanced(Isolated):
    """Isolated, but the loss of a batch is sum_b w_y(b) CE_b / sum_b w_y(b), with w_c = N / (K n_c) from the private
    histogram: K classes present, n_c of N samples of class c. The same passes over the data as Isolated."""

    name: ClassVar[str] = "isolated-balanced"

    def check(self, learner: Learner) -> None:
        if learner.loss is not F.cross_entropy:
            raise LearnerError(f"{self.name} weighs cross-entropy; this learner has a loss of its own: use isolated")

    def local(self, learner: Learner, span: Span) -> Report:
        weight = losses.balanced_weights(torch.tensor(learner.describe().histogram)).to(learner.device)

        def balanced(model: nn.Module, batch: Batch) -> Tensor:
            logits = model(batch.x)
            return F.cross_entropy(logits, batch.y, weight=weight.to(logits.dtype))

        return learner.fit(span, loss=balanced)
