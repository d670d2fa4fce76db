"""How a method's steps go down: clipped gradients and a cosine schedule, around whatever optimizer the learner has."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Optimizer

from peerlearn.learning.learner import Learner


@contextmanager
def paced(learner: Learner, *, clip: float | None, cosine: int | None) -> Iterator[None]:
    """Inside the block every optimizer step has its gradients' norm cut to `clip`, and a learning rate that falls from
    the optimizer's own to 0 along half a cosine over the learner's first `cosine` steps. None: as it is.

    Everything that changes is part of the optimizer's state: saved, and rolled back, with the learner.
    """

    def before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            if cosine is not None:
                first = group.setdefault("initial_lr", group["lr"])
                group["lr"] = first * cosine_share(learner.steps, cosine)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)

    handle = learner.optimizer.register_step_pre_hook(before_step)
    try:
        yield
    finally:
        handle.remove()


def cosine_share(step: int, steps: int) -> float:
    """(1 + cos(pi * step / steps)) / 2, and 0 from the last step on."""
    return 0.5 * (1 + math.cos(math.pi * min(step, steps) / steps))
