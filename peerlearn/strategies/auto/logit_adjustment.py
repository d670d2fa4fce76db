"""Learning and judging as if every class were equally frequent, whatever the private data holds.

Balanced softmax: Ren et al. 2020, "Balanced meta-softmax". Logit adjustment: Menon et al. 2021, "Long-tail learning
via logit adjustment".
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peerlearn.learning.learner import Batch, Learner


class AdjustedLoss:
    """The learner's own loss of logits to which the log of the private class frequencies is added: what is learned is
    then the likelihood of an input, not how often its class happens to be here.

    Every class counts as seen once more than it was, so that none is impossible. `smoothing` of labels is for
    cross-entropy only: what it would mean to a loss of the learner's own is not known.
    """

    def __init__(self, learner: Learner, smoothing: float) -> None:
        counts = torch.tensor(learner.describe().histogram, dtype=torch.float64) + 1
        self._log_prior = (counts / counts.sum()).log().to(learner.device)
        self._loss = learner.loss
        self._smoothing = smoothing if learner.loss is F.cross_entropy else 0.0

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        logits: Tensor = model(batch.x)
        adjusted = logits + self._log_prior.to(logits.dtype)
        if self._smoothing:
            return F.cross_entropy(adjusted, batch.y, label_smoothing=self._smoothing)
        return self._loss(adjusted, batch.y)


def likelihood(learner: Learner) -> float:
    """Mean log-probability of held-out samples' classes, classes counting equally; nan without any."""
    held = learner.held_out
    if held is None:
        return float("nan")
    share = torch.bincount(held.y, minlength=learner.classes).double()
    logs = learner.logits(held.x).double().log_softmax(dim=1).gather(1, held.y[:, None])[:, 0]
    return float((logs / share[held.y]).sum() / int((share > 0).sum()))
