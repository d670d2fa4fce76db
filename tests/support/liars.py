"""Providers that lie, and learners that are good at some classes only."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from peerlearn.config import Timing
from peerlearn.knowledge import Answer, Knowledge, Outputs, Params, Question, Sparse
from peerlearn.learning.learner import Learner
from peerlearn.strategies.base import Strategy
from peerlearn.testing import (
    blob_model,
    blobs,
)
from peerlearn.types import epochs

Spoil = Callable[[str, Tensor], Tensor]


PATIENT = Timing(beat=0.1, suspect_after=5.0, gone_after=15.0, base=5.0, stall=5.0, retry_first=0.05, retry_most=0.5)
"""Nobody is missed for being slow on a busy machine: who is asked when is then the same in each run."""


def scaled(name: str, tensor: Tensor) -> Tensor:
    return tensor * 1e4 if tensor.is_floating_point() else tensor


def onesided(name: str, tensor: Tensor) -> Tensor:
    """Says class 0 of everything. Within all that is checked: the scale, and right as often as by guessing."""
    return tensor + 90 * torch.eye(4)[0] if name == "fc.bias" else tensor


def spoilt(knowledge: Knowledge, spoil: Spoil) -> Knowledge:
    if isinstance(knowledge, Outputs):
        return replace(knowledge, tensors={name: spoil(name, tensor) for name, tensor in knowledge.tensors.items()})

    def one(name: str, tensor: Tensor | Sparse) -> Tensor | Sparse:
        if isinstance(tensor, Sparse):
            return replace(tensor, values=spoil(name, tensor.values))
        return spoil(name, tensor)

    return replace(knowledge, tensors={name: one(name, tensor) for name, tensor in knowledge.tensors.items()})


def liar(strategy: Strategy, spoil: Spoil) -> Strategy:
    """Spoils whatever it hands over, asked and unasked."""
    answer, ask = strategy.answer, strategy.ask

    def lie(*args: Any) -> Answer:
        said = answer(*args)
        return spoilt(said, spoil) if isinstance(said, Params | Outputs) else said

    def bring(*args: Any) -> Question | Sequence[Question]:
        asked = ask(*args)
        every = [asked] if isinstance(asked, Question) else asked
        return [replace(q, brings=spoilt(q.brings, spoil)) if q.brings is not None else q for q in every]

    vars(strategy).update(answer=lie, ask=bring)
    return strategy


def skilled(classes: list[int], seed: int, *, shift: int = 0, held_out: float = 0.2) -> Learner:
    """Knows its classes well before it meets anybody. `shift`: calls each class by the name of another."""
    x, y = blobs(classes, seed)
    model = blob_model()
    its = Learner(
        model, (x, (y + shift) % 4), classes=4, seed=seed, batch_size=32, held_out=held_out,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
    )  # fmt: skip
    its.fit(epochs(12))
    return its
