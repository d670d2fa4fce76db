"""Proving on held-out private data what an average is worth, and what each model in it adds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from peerlearn.learning.learner import Learner

DOUBT = 3.0
"""Standard errors by which leaving a model out must help before it is left out: held-out data is small and knows
little of others' classes, so that a lesser difference is no proof of harm."""

State = Mapping[str, Tensor]
Mean = Callable[[Sequence[int]], State]
"""The average of the models at these places."""


@dataclass(frozen=True, slots=True)
class Selection:
    """`keep`: places of the models that go into the average; `gains`: nats that each of `places` adds to it."""

    keep: tuple[int, ...]
    gains: tuple[float, ...]


def select_models(learner: Learner, mean: Mean, amount: int, *, mine: int) -> Selection:
    """Which of `amount` models belong into the average, each tried by leaving it out. The own one, at place `mine`,
    always does. nan gains and all kept without held-out data."""
    everybody = tuple(range(amount))
    held = learner.held_out
    if held is None or amount < 2:
        return Selection(everybody, tuple(float("nan") for _ in everybody))
    share = torch.bincount(held.y, minlength=learner.classes).double()
    weight = 1 / (share[held.y] * int((share > 0).sum()))  # (N,): every class present counts the same

    def likelihood(places: Sequence[int]) -> Tensor:
        """(N,): log-probability of each held-out sample's class."""
        logits = learner.logits(held.x, model=learner.build({**learner.state, **mean(places)}))
        return logits.double().log_softmax(dim=1).gather(1, held.y[:, None])[:, 0]

    whole = likelihood(everybody)
    gains, harmful = [], set()
    for place in everybody:
        if place == mine:
            gains.append(0.0)
            continue
        difference = whole - likelihood([other for other in everybody if other != place])  # (N,)
        gain = float((weight * difference).sum())
        error = float((weight**2 * (difference - gain) ** 2).sum()) ** 0.5
        gains.append(gain)
        if gain < -DOUBT * error:
            harmful.add(place)
    return Selection(tuple(place for place in everybody if place not in harmful), tuple(gains))
