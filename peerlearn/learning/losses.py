"""The losses of knowledge transfer, each written once; every strategy uses these."""

import torch
import torch.nn.functional as F
from torch import Tensor


def kl(p_logits: Tensor, q_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 * mean over the batch of KL(softmax(p/T) || softmax(q/T)), both logits (B, C); gradients reach both."""
    p = F.log_softmax(p_logits / temperature, dim=1)
    q = F.log_softmax(q_logits / temperature, dim=1)
    return F.kl_div(q, p, reduction="batchmean", log_target=True) * temperature**2


def distill_kl(teacher_logits: Tensor, student_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KD_T(teacher -> student), a scalar: `kl` with the teacher detached. Logits are (B, C).

    T^2 keeps the size of the gradient independent of the temperature (Hinton et al. 2015, section 2).
    """
    return kl(teacher_logits.detach(), student_logits, temperature)


def logit_mse(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """Mean squared distance of logits (B, C), over batch and classes; the teacher is detached."""
    return F.mse_loss(student_logits, teacher_logits.detach())


def balanced_weights(histogram: Tensor) -> Tensor:
    """Class weights float32 (C,) for cross-entropy that give every present class the same total weight.

    `histogram`: samples per class, (C,). w_c = N / (K n_c) with K classes present; 0 for an absent class.
    """
    counts = histogram.to(torch.float64)
    present = counts > 0
    weights = counts.sum() / (present.sum() * counts.clamp(min=1))
    return torch.where(present, weights, torch.zeros_like(weights)).float()
