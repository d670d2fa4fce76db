"""The training of a FedGKT hub's large network on the edges' feature maps, and its replies."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import nan
from typing import Literal

import torch
from torch import Tensor

from peerlearn.learning import losses
from peerlearn.learning.learner import Learner
from peerlearn.learning.report import Report
from peerlearn.learning.sampler import Sampler
from peerlearn.learning.state import in_mode
from peerlearn.strategies.fedgkt.feature_store import Brought, Reply
from peerlearn.types import Span, epochs

Shuffle = Literal["across", "within"]
"""The order of a hub's batches, see `HubTraining`."""
ReplyBy = Literal["eval", "last-epoch"]
"""The pass that gives the replies, see `HubTraining`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubTraining:
    """Equation (6): L_s = CE(f_s(H), y) + alpha * KD_T(Z_c -> f_s(H)). alpha 0 ignores the edges' logits.

    `shuffle` across: batches mix samples of all edges; within: one edge after another, as in the paper's algorithm 1.
    `reply_by` eval: Z_s comes from a pass in eval mode after the last step; last-epoch: from the train-mode pass that
    last used the sample, as in the authors' code.
    """

    alpha: float
    temperature: float
    batch_size: int
    shuffle: Shuffle
    reply_by: ReplyBy

    def run(self, learner: Learner, entries: Sequence[Brought], span: Span, seed: object) -> tuple[Report, list[Reply]]:
        """Train the learner's network on these entries. Returns the report and the replies, in the entries' order.
        Raises Diverged, Interrupted."""
        feature, logits, label = (
            torch.cat([getattr(entry, name) for entry in entries]) for name in ("feature", "logits", "label")
        )
        said = torch.full(logits.shape, nan)
        total, samples, steps = 0.0, 0, 0
        with in_mode(learner.model, training=True):
            for rows in self.batches([len(entry) for entry in entries], span, (learner.seed, seed)):
                learner.check_interrupt()
                with learner.chance(f"hub step {learner.steps}"):
                    z = learner.model(feature[rows].float().to(learner.device))
                    value = learner.step(self.loss(learner, z, logits[rows], label[rows]))
                said[rows] = z.detach().cpu().float()
                total, samples, steps = total + value * len(rows), samples + len(rows), steps + 1
        replies = self._replies(learner, entries, said)
        return Report(steps=steps, samples=samples, loss=total / samples if samples else nan), replies

    def loss(self, learner: Learner, z: Tensor, theirs: Tensor, label: Tensor) -> Tensor:
        """L_s, a scalar, of the hub's logits z (B, C), the edges' logits (B, C) and labels int64 (B,)."""
        own = learner.loss(z, label.to(z.device))
        if self.alpha == 0:
            return own
        return own + self.alpha * losses.distill_kl(theirs.to(z.device), z, self.temperature)

    def batches(self, sizes: Sequence[int], span: Span, seed: object) -> Iterator[Tensor]:
        """Rows int64 (B,) into the concatenated entries. A span of steps takes as many epochs as it needs."""
        if self.shuffle == "across":
            sampler = Sampler(sum(sizes), self.batch_size, seed=(seed, "across"))
            for _ in range(sampler.count(span)):
                yield sampler.next()
            return
        samplers = [Sampler(size, self.batch_size, seed=(seed, nth)) for nth, size in enumerate(sizes)]
        offsets = [sum(sizes[:nth]) for nth in range(len(sizes))]
        left = span.amount * (sum(sampler.per_epoch for sampler in samplers) if span.unit == "epochs" else 1)
        while left:
            for sampler, offset in zip(samplers, offsets, strict=True):
                for _ in range(min(left, sampler.count(epochs(1)))):
                    yield sampler.next() + offset
                    left -= 1

    def _replies(self, learner: Learner, entries: Sequence[Brought], said: Tensor) -> list[Reply]:
        replies = []
        for entry, last in zip(entries, said.split([len(entry) for entry in entries]), strict=True):
            z = learner.logits(entry.feature.float()).float()
            if self.reply_by == "last-epoch":
                z = torch.where(last.isnan(), z, last)  # a short span of steps does not see every sample
            replies.append(Reply(entry.fingerprint, entry.ids, z))
        return replies
