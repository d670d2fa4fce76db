"""Tiny streams for CLUE: a learner that meets new classes, and learners that know them."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from peerlearn.learning.learner import Learner
from peerlearn.learning.stream import Phase, Stream, StreamLearner, introduction, steady
from peerlearn.testing import (
    CLASSES,
    tiny_data,
    tiny_model,
)

Selection = Literal["on-demand", "continuous"]


QUIET = 14
"""Batches before the new classes come; by then there is a base."""


DATA = tiny_data(samples=1200)


DRIFTING = tuple(introduction([0, 1], [2, 3], before=QUIET, after=26, share=0.5))


KNOWING = steady(range(CLASSES), batches=40)


def stream_learner(
    phases: Sequence[Phase], seed: int, *, model: nn.Module | None = None, lr: float = 3e-3, held_out: Any = None
) -> StreamLearner:
    model = model or tiny_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    stream = Stream(DATA, phases, batch_size=24, seed=seed)
    its = StreamLearner(model, stream, optimizer=optimizer, seed=seed, held_out=held_out)
    fine_tune(its, sorted(phases[0].mix))
    return its


ANCESTORS: dict[tuple[str, ...], dict[str, Tensor]] = {}


def fine_tune(its: Learner, classes: list[int]) -> None:
    """The common ancestor is trained on what the peer knows, as in the paper; the optimizer starts afresh. Kept: equal
    models and classes come to equal bits."""
    data = tiny_data(samples=240, seed=5, only=classes)
    key = (its.architecture, *map(str, classes))
    if key not in ANCESTORS:
        optimizer = torch.optim.Adam(its.model.parameters(), lr=1e-2)
        its.model.train()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for _ in range(40):
                optimizer.zero_grad()
                nn.functional.cross_entropy(its.model(data.x), data.y).backward()
                optimizer.step()
        optimizer.zero_grad()
        ANCESTORS[key] = {name: t.detach().clone() for name, t in its.state.items()}
    its.model.load_state_dict(ANCESTORS[key])


def learners() -> dict[str, Learner]:
    return {"amber": stream_learner(DRIFTING, 1), "birch": stream_learner(KNOWING, 2)}
