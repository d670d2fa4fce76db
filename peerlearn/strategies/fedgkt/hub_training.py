"""How a FedGKT hub trains its large network on feature maps that edges have brought, and what it replies."""

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
ReplyBy = Literal["eval", "last-epoch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HubTraining:
    """Equation (6): L_s = CE(f_s(H), y) + alpha * KD_T(Z_c -> f_s(H)); alpha 0 leaves the edges' logits unread.

    `shuffle` across: batches hold samples of all edges; within: one edge after another, as in the paper's algorithm 1.
    `reply_by` eval: Z_s is a pass in eval mode after the last step; last-epoch: what the network gave in train mode
    when it last saw the sample, as in the released code.
    """

    alpha: float
    temperature: float
    batch_size: int
    shuffle: Shuffle
    reply_by: ReplyBy

    def run(self, learner: Learner, entries: Sequence[Brought], span: Span, seed: object) -> tuple[Report, list[Reply]]:
        """Train the learner's network on these entries; the replies stand in the same order. Raises Diverged,
        Interrupted."""
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
        """Of the hub's logits z (B, C) beside the edges' (B, C) and labels int64 (B,)."""
        own = learner.loss(z, label.to(z.device))
        if self.alpha == 0:
            return own
        return own + self.alpha * losses.distill_kl(theirs.to(z.device), z, self.temperature)

    def batches(self, sizes: Sequence[int], span: Span, seed: object) -> Iterator[Tensor]:
        """Rows int64 (B,) of the entries one after another. A span of steps is cut from as many epochs as it takes."""
        if self.shuffle == "across":
            order = Sampler(sum(sizes), self.batch_size, seed=(seed, "across"))
            for _ in range(order.count(span)):
                yield order.next()
            return
        orders = [Sampler(size, self.batch_size, seed=(seed, nth)) for nth, size in enumerate(sizes)]
        offsets = [sum(sizes[:nth]) for nth in range(len(sizes))]
        left = span.amount * (sum(order.per_epoch for order in orders) if span.unit == "epochs" else 1)
        while left:
            for order, offset in zip(orders, offsets, strict=True):
                for _ in range(min(left, order.count(epochs(1)))):
                    yield order.next() + offset
                    left -= 1

    def _replies(self, learner: Learner, entries: Sequence[Brought], said: Tensor) -> list[Reply]:
        replies = []
        for entry, last in zip(entries, said.split([len(entry) for entry in entries]), strict=True):
            z = learner.logits(entry.feature.float()).float()
            if self.reply_by == "last-epoch":
                z = torch.where(last.isnan(), z, last)  # a short span of steps does not see every sample
            replies.append(Reply(entry.fingerprint, entry.ids, z))
        return replies
