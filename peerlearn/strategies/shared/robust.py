"""Aggregation of several models into one: means, and rules that tolerate lying peers. Coordinate-wise, or one whole
model.

Median and trimmed mean: Yin et al. 2018, "Byzantine-robust distributed learning", definitions 1 and 2. Krum: Blanchard
et al. 2017, "Machine learning with adversaries", section 4. `weighted`: McMahan et al. 2017, sum_k n_k theta_k / sum_k
n_k.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from peerlearn.errors import ConfigError, KnowledgeError

Rule = Literal["weighted", "mean", "median", "trimmed-mean", "krum"]
"""Names of the aggregation rules."""
State = Mapping[str, Tensor]

_BEARING_LIARS = ("trimmed-mean", "krum")
"""Rules that take a number of liars into account."""


def check_rule(strategy: str, rule: str, liars: int) -> None:
    """Raises ConfigError for an unknown rule, and for a number of liars that the rule cannot use."""
    rules = ("weighted", "mean", "median", *_BEARING_LIARS)
    if rule not in rules:
        raise ConfigError(f"{strategy}: aggregate {rule!r} is not one of {', '.join(rules)}")
    if liars < 0:
        raise ConfigError(f"{strategy}: liars must be at least 0, not {liars}")
    if liars and rule not in _BEARING_LIARS:
        raise ConfigError(f"{strategy}: aggregate {rule} knows no number of liars; trimmed-mean and krum do")


def least_models(rule: Rule, liars: int) -> int:
    """Fewest models with which `liars` of them cannot decide: 2f + 1 for the trimmed mean, 2f + 3 for Krum, otherwise
    1."""
    return {"trimmed-mean": 2 * liars + 1, "krum": 2 * liars + 3}.get(rule, 1)


def aggregated(rule: Rule, states: Sequence[State], samples: Sequence[int], *, liars: int = 0) -> dict[str, Tensor]:
    """One state of all floating tensors, in the dtypes of the first model. Other tensors (num_batches_tracked) are left
    out.

    `states`: on the CPU, in an order that does not depend on arrival. `samples`: n_k, used by `weighted` only. Raises
    KnowledgeError when there are too few models for the rule, or no labelled sample.
    """
    if len(states) < least_models(rule, liars):
        raise KnowledgeError(
            f"{rule} with {liars} liars needs {least_models(rule, liars)} models, {len(states)} are here"
        )
    if rule == "weighted":
        return mean(states, samples)
    if rule == "mean":
        return mean(states)
    if rule == "krum":
        chosen = states[krum(states, liars)]
        return {name: chosen[name] for name in floating(chosen)}
    cut = (len(states) - 1) // 2 if rule == "median" else liars
    return {name: _middle([state[name] for state in states], cut) for name in floating(states[0])}


def mean(states: Sequence[State], weights: Sequence[int] | None = None) -> dict[str, Tensor]:
    """sum_k n_k theta_k / sum_k n_k of every floating tensor, summed in float64 in the order given; `weights` None: n_k
    = 1.

    Raises KnowledgeError when all n_k are 0.
    """
    counts = [1] * len(states) if weights is None else list(weights)
    total = sum(counts)
    if total <= 0:
        raise KnowledgeError("nobody has a labelled sample, so that no weights can be made of their numbers")
    result = {}
    for name in floating(states[0]):
        summed = torch.zeros(states[0][name].shape, dtype=torch.float64)
        for state, count in zip(states, counts, strict=True):
            summed += state[name].double() * count
        result[name] = (summed / total).to(states[0][name].dtype)
    return result


def krum(states: Sequence[State], liars: int) -> int:
    """Place of the model with the smallest sum of squared distances to its k - f - 2 nearest others; the first among
    equals."""
    nearest = len(states) - liars - 2
    distances = torch.zeros(len(states), len(states), dtype=torch.float64)
    for i in range(len(states)):
        for j in range(i):
            distances[i, j] = distances[j, i] = _squared_distance(states[i], states[j])
    others = distances.sort(dim=1).values[:, 1 : nearest + 1]  # column 0 is the distance to itself
    return int(others.sum(dim=1).argmin())


def floating(state: State) -> list[str]:
    """Sorted names of the floating tensors, which can be averaged; counters and masks cannot."""
    return sorted([name for name, tensor in state.items() if tensor.is_floating_point()])


def _middle(tensors: Sequence[Tensor], cut: int) -> Tensor:
    """Coordinate-wise mean without the `cut` smallest and the `cut` largest values."""
    ordered = torch.stack([t.double() for t in tensors]).sort(dim=0).values
    kept = ordered[cut : len(tensors) - cut]
    return kept.mean(dim=0).to(tensors[0].dtype)


def _squared_distance(one: State, other: State) -> float:
    return sum(float((one[name].double() - other[name].double()).square().sum()) for name in floating(one))
