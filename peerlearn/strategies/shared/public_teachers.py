"""Teachers known by their outputs on a public set: checked on arrival, then read batch by batch."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from peerlearn.errors import KnowledgeError
from peerlearn.knowledge import Outputs
from peerlearn.learning.dataset import Unlabelled
from peerlearn.learning.learner import Learner
from peerlearn.learning.plausible import check_logits
from peerlearn.learning.sampler import Sampler
from peerlearn.learning.state import check_finite, dtype_name

BATCH = 64
"""Public samples per step."""
Positions = Mapping[str, Sequence[int]]
"""(epoch, position) by fingerprint of a public set."""


def check_outputs(learner: Learner, outputs: Outputs) -> None:
    """Raises KnowledgeError unless these are finite logits (N, C) of plausible scale on all N samples of a public set
    that the learner holds."""
    public = held_set(learner, outputs)
    if not torch.equal(outputs.ids, public.ids):
        raise KnowledgeError(f"outputs on {len(outputs.ids)} ids came, not on the {len(public)} of {public.name!r}")
    if set(outputs.tensors) != {"logits"}:
        raise KnowledgeError(f"outputs named {', '.join(sorted(outputs.tensors)) or 'nothing'} came, not logits")
    logits, wanted = outputs.tensors["logits"], (len(public), learner.classes)
    if not logits.is_floating_point() or tuple(logits.shape) != wanted:
        raise KnowledgeError(f"logits must be floats {wanted}, not {dtype_name(logits)} {tuple(logits.shape)}")
    check_finite("logits", logits)
    check_logits(logits, lambda: learner.logits(public.x[:BATCH]))


def held_set(learner: Learner, outputs: Outputs) -> Unlabelled:
    """The learner's public set on which these outputs are. Raises KnowledgeError when it holds no such set."""
    for public in learner.public_sets:
        if public.fingerprint == outputs.fingerprint:
            return public
    raise KnowledgeError(f"outputs on a public set {outputs.dataset[:64]!r} that this learner does not hold")


class PublicTeachers:
    """Several providers' logits on public sets. Each step uses one batch per set, with one forward pass of the
    student."""

    def __init__(self, learner: Learner, outputs: Sequence[Outputs], positions: Positions) -> None:
        self._device = learner.device
        self._sets = {each.fingerprint: held_set(learner, each) for each in outputs}
        self._logits = {f: [e.tensors["logits"].float() for e in outputs if e.fingerprint == f] for f in self._sets}
        self._samplers = {f: Sampler(len(public), BATCH, seed=f) for f, public in self._sets.items()}
        for f, sampler in self._samplers.items():
            sampler.go_to(*positions.get(f, (0, 0)))

    def pairs(self, student: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """(teacher logits, student logits), each (B, C), one pair per provider; gradients reach the student."""
        pairs = []
        for f, public in self._sets.items():
            rows = self._samplers[f].next()
            mine = student(public.x[rows].to(self._device))
            pairs += [(theirs[rows].to(self._device), mine) for theirs in self._logits[f]]
        return pairs

    def positions(self) -> dict[str, list[int]]:
        """Position (epoch, batch) in each public set, by fingerprint, for the next transfer."""
        return {f: list(sampler.state()) for f, sampler in self._samplers.items()}
