"""Many models into one: the mean, and means that bear some liars. Coordinate-wise, or one whole model.

Median and trimmed mean: Yin et al. 2018, "Byzantine-robust distributed learning". Krum: Blanchard et al. 2017,
"Machine learning with adversaries". `weighted` is McMahan et al. 2017, sum_k n_k theta_k / sum_k n_k.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from peerlearn.errors import ConfigError, KnowledgeError

Rule = Literal["weighted", "mean", "median", "trimmed-mean", "krum"]
State = Mapping[str, Tensor]

_BEARING_LIARS = ("trimmed-mean", "krum")


def check_rule(strategy: str, rule: str, liars: int) -> None:
    """Raises ConfigError for an unknown rule, and for liars that a rule cannot take into account."""
    rules = ("weighted", "mean", "median", *_BEARING_LIARS)
    if rule not in rules:
        raise ConfigError(f"{strategy}: aggregate {rule!r} is not one of {', '.join(rules)}")
    if liars < 0:
        raise ConfigError(f"{strategy}: liars must be at least 0, not {liars}")
    if liars and rule not in _BEARING_LIARS:
        raise ConfigError(f"{strategy}: aggregate {rule} knows no number of liars; trimmed-mean and krum do")


def least_models(rule: Rule, liars: int) -> int:
    """How many models the rule needs so that `liars` of them cannot decide: 2f + 1 trimmed, 2f + 3 for Krum."""
    return {"trimmed-mean": 2 * liars + 1, "krum": 2 * liars + 3}.get(rule, 1)


def aggregated(rule: Rule, states: Sequence[State], samples: Sequence[int], *, liars: int = 0) -> dict[str, Tensor]:
    """One state of all floating tensors, in the dtypes of the first; others (num_batches_tracked) are left out.

    `states` in an order that does not depend on arrival, on the CPU; `samples`: n_k, read by `weighted` only.
    Raises KnowledgeError when there are too few for the rule, or nobody has a sample.
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
    """sum_k n_k theta_k / sum_k n_k of every floating tensor, summed in the order given in float64; n_k = 1 when None.

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
    """The place of the model with the smallest sum of squared distances to its k - f - 2 nearest others; of equals,
    the first."""
    nearest = len(states) - liars - 2
    distances = torch.zeros(len(states), len(states), dtype=torch.float64)
    for i in range(len(states)):
        for j in range(i):
            distances[i, j] = distances[j, i] = _squared_distance(states[i], states[j])
    others = distances.sort(dim=1).values[:, 1 : nearest + 1]  # column 0 is the distance to itself
    return int(others.sum(dim=1).argmin())


def floating(state: State) -> list[str]:
    """Names of the tensors that can be averaged, in order: floating point, neither counters nor masks."""
    return sorted(name for name, tensor in state.items() if tensor.is_floating_point())


def _middle(tensors: Sequence[Tensor], cut: int) -> Tensor:
    """Mean of what is left of each coordinate without its `cut` smallest and largest values."""
    ordered = torch.stack([t.double() for t in tensors]).sort(dim=0).values
    kept = ordered[cut : len(tensors) - cut]
    return kept.mean(dim=0).to(tensors[0].dtype)


def _squared_distance(one: State, other: State) -> float:
    return sum(float((one[name].double() - other[name].double()).square().sum()) for name in floating(one))
