"""Which models belong into an average, measured on held-out private data: the average with and without each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from peerlearn.learning.learner import Learner

DOUBT = 3.0
"""A model is left out only if that helps by this many standard errors. Held-out data is small and says little about
other peers' classes, so a smaller difference does not prove harm. A lower value leaves out useful models by
accident."""

State = Mapping[str, Tensor]
Mean = Callable[[Sequence[int]], State]
"""The average of the models at these places."""


@dataclass(frozen=True, slots=True)
class Selection:
    """`keep`: places of the models in the average. `gains`: for each place, the log-likelihood in nats that its model
    adds."""

    keep: tuple[int, ...]
    gains: tuple[float, ...]


def select_models(learner: Learner, mean: Mean, amount: int, *, mine: int) -> Selection:
    """Select among `amount` models by leaving out one at a time. The learner's own model, at place `mine`, is always
    kept. Without held-out data all are kept, and gains are nan."""
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
