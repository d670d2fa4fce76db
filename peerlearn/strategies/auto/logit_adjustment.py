"""Training and evaluation as if all classes were equally frequent, whatever the private data holds.

Balanced softmax: Ren et al. 2020, "Balanced meta-softmax for long-tailed visual recognition". Logit adjustment: Menon
et al. 2021, "Long-tail learning via logit adjustment".
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peerlearn.learning.learner import Batch, Learner


class AdjustedLoss:
    """The learner's loss of logits + log(private class frequencies). The model then learns the likelihood of an input
    given its class, not how frequent the class is here.

    Each class counts one sample more than it has, so that none is impossible. `smoothing`: label smoothing, applied
    only to cross-entropy, because its effect on a user's own loss is unknown.
    """

    def __init__(self, learner: Learner, smoothing: float) -> None:
        counts = torch.tensor(learner.describe().histogram, dtype=torch.float64) + 1
        self._log_prior = (counts / counts.sum()).log().to(learner.device)
        self._loss = learner.loss
        self._smoothing = smoothing if learner.loss is F.cross_entropy else 0.0

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """A scalar; gradients reach the model."""
        logits: Tensor = model(batch.x)
        adjusted = logits + self._log_prior.to(logits.dtype)
        if self._smoothing:
            return F.cross_entropy(adjusted, batch.y, label_smoothing=self._smoothing)
        return self._loss(adjusted, batch.y)


def likelihood(learner: Learner) -> float:
    """Mean log-probability, in nats, of the true classes of held-out samples, each class counting equally; nan without
    samples."""
    held = learner.held_out
    if held is None:
        return float("nan")
    share = torch.bincount(held.y, minlength=learner.classes).double()
    logs = learner.logits(held.x).double().log_softmax(dim=1).gather(1, held.y[:, None])[:, 0]
    return float((logs / share[held.y]).sum() / int((share > 0).sum()))
