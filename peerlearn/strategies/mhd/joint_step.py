"""The joint step of multi-headed distillation: own labels on a private batch, teachers' outputs on a public one."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from peerlearn.learning.dataset import Unlabelled
from peerlearn.learning.learner import Batch, Learner
from peerlearn.strategies.mhd import loss as terms
from peerlearn.strategies.mhd.heads import MultiHead, Views
from peerlearn.strategies.mhd.loss import Aims
from peerlearn.strategies.mhd.public_window import Window
from peerlearn.strategies.mhd.teacher_pool import FrozenTeacher, Said


class Joint:
    """An objective for `Learner.fit` that passes through the public set from `start` on; `position` is where it stands.

    `per_step`: number of teachers drawn for each step from the learner's generator; None: all. When no teacher has
    outputs on a batch, the step uses own labels alone.
    """

    def __init__(
        self,
        learner: Learner,
        public: Unlabelled,
        start: Window,
        *,
        teachers: Sequence[FrozenTeacher],
        aims: Aims,
        per_step: int | None,
    ) -> None:
        self._learner, self._public, self._start = learner, public, start
        self._teachers, self._aims, self._per_step = teachers, aims, per_step
        self._sampler = start.order(public)

    @property
    def position(self) -> tuple[int, int]:
        """Epoch and batch of the next public batch."""
        return self._sampler.state()

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, MultiHead)
        own = self._learner.loss(model(batch.x), batch.y)
        epoch, position = self._sampler.state()
        now = replace(self._start, epoch=epoch, position=position)
        rows = self._sampler.next()
        said = [words for teacher in self._teachers if (words := teacher.on(rows, now)) is not None]
        if not said:
            return own
        # a separate pass, so that batch normalisation does not mix private and public samples
        mine = model.views(self._public.x[rows].to(self._learner.device), heads=self._aims.heads + 1)
        return joint_loss(own, model, mine, self._drawn(said), self._aims, self._learner.rng)

    def _drawn(self, said: Sequence[Said]) -> Sequence[Said]:
        if self._per_step is None or self._per_step >= len(said):
            return said
        drawn = torch.randperm(len(said), generator=self._learner.rng)[: self._per_step]
        return [said[i] for i in drawn.sort().values.tolist()]


def joint_loss(
    own: Tensor, model: MultiHead, mine: Views, said: Sequence[Said], aims: Aims, rng: torch.Generator
) -> Tensor:
    """own + nu_emb * embedding term + nu_aux * sum of the terms of heads 1..m (of head 0 alone in plain distillation).
    A scalar."""
    total = own
    if aims.nu_emb:
        theirs = [words.embedding for words in said if words.embedding is not None]
        pairs = [(model.projected(mine.embedding, each.shape[1]), each) for each in theirs]
        total = total + aims.nu_emb * terms.embedding_term(pairs)
    logits = [words.logits for words in said]
    for head in range(1, aims.heads + 1) if aims.heads else (0,):
        total = total + aims.nu_aux * terms.head_term(mine.logits, logits, head, aims, rng)
    return total
