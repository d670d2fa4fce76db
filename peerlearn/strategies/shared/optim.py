"""Clipped gradients and a cosine learning rate, around any optimizer of the learner."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Optimizer

from peerlearn.learning.learner import Learner


@contextmanager
def paced(learner: Learner, *, clip: float | None, cosine: int | None) -> Iterator[None]:
    """A block in which optimizer steps clip the gradients' norm to `clip`, and multiply the optimizer's learning rate
    by half a cosine that falls from 1 to 0 over the learner's first `cosine` steps. None: unchanged.

    All that changes is part of the optimizer's state, and so is saved and rolled back with the learner.
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
    """(1 + cos(pi * step / steps)) / 2; 0 from step `steps` on."""
    return 0.5 * (1 + math.cos(math.pi * min(step, steps) / steps))
