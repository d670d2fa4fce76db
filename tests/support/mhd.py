"""Three learners for multi-headed distillation, of three architectures, with a public set."""

from typing import Any

import torch

from peerlearn.learning.dataset import Unlabelled
from peerlearn.learning.learner import Learner
from peerlearn.strategies.mhd.heads import MultiHead
from peerlearn.strategies.mhd.strategy import MHD
from peerlearn.testing import (
    blob_model,
    blobs,
)

CLASSES_OF = {"amber": ([0, 1, 2], 1), "birch": ([1, 2, 3], 2), "cedar": ([2, 3, 0], 3)}


def mhd_learner(classes: list[int], seed: int, lr: float = 1e-3) -> Learner:
    x, _ = blobs([0, 1, 2, 3], 99, 160)
    public = Unlabelled(x, torch.arange(160), "common")
    model = MultiHead.over(blob_model(8 + 2 * seed), aux=2, seed=seed)
    return Learner(
        model,
        blobs(classes, seed),
        optimizer=torch.optim.Adam(model.parameters(), lr=lr),
        classes=4,
        seed=seed,
        batch_size=32,
        public_sets=[public],
    )


def small_mhd(**more: Any) -> MHD:
    return MHD(**{"refresh": 4, "public_batch": 32, "warm_up": 1, "nu_emb": 0.0, **more})
