"""Pooled outputs of all peers on a public set, with equal weights (ensemble distillation, FedDF: Lin et al. 2020)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from peerlearn.knowledge import Outputs
from peerlearn.learning import losses
from peerlearn.learning.learner import Learner
from peerlearn.learning.sampler import Sampler
from peerlearn.strategies.shared.public_teachers import BATCH, Positions, held_set


class Pools:
    """One pool for each public set on which outputs were received. Each step uses one batch of each."""

    def __init__(self, learner: Learner, outputs: Sequence[Outputs], sharpness: float, positions: Positions) -> None:
        self._device = learner.device
        self._pools = pooled(learner, outputs, sharpness)
        self._sets = {public.fingerprint: public for public in learner.public_sets}
        self._samplers = {print_: Sampler(len(pool), BATCH, seed=print_) for print_, pool in self._pools.items()}
        for print_, sampler in self._samplers.items():
            sampler.go_to(*positions.get(print_, (0, 0)))

    def __len__(self) -> int:
        return len(self._pools)

    def distances(self, model: nn.Module) -> list[Tensor]:
        """KL divergence of the model from each pool on its next batch, scalars; gradients reach the model."""
        found = []
        for print_, pool in self._pools.items():
            rows = self._samplers[print_].next()
            logits = model(self._sets[print_].x[rows].to(self._device))
            found.append(losses.distill_kl(pool[rows].to(self._device), logits))
        return found

    def positions(self) -> dict[str, list[int]]:
        """Position (epoch, batch) in each public set, by fingerprint, for the next transfer."""
        return {print_: list(sampler.state()) for print_, sampler in self._samplers.items()}


def pooled(learner: Learner, outputs: Sequence[Outputs], sharpness: float) -> dict[str, Tensor]:
    """Per fingerprint of a public set, the pool's logits (N, C): the mean of all peers' log-probabilities on it, the
    learner's included, times `sharpness`. The pool's probabilities are thereby raised to that power."""
    pools = {}
    for print_ in sorted({each.fingerprint for each in outputs}):
        theirs = [each for each in outputs if each.fingerprint == print_]
        public = held_set(learner, theirs[0])
        voices = [learner.logits(public.x), *(each.tensors["logits"].float() for each in theirs)]
        pools[print_] = sharpness * torch.stack([voice.log_softmax(dim=1) for voice in voices]).mean(dim=0)
    return pools
