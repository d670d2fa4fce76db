"""Who holds which samples when each class is primary for some peers: the skew of multi-headed distillation.

Rising row numbers of the whole set per peer, int64 (k,), as in partition.py.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from peerlearn.errors import ConfigError
from peerlearn.learning.sampler import seeded_rng


def primary_classes(classes: int, peers: int, each: int) -> tuple[tuple[int, ...], ...]:
    """`each` primary classes per peer, dealt round so that every class is primary for the same number of peers, give
    or take one. Raises ConfigError for a number that leaves a class without a peer, or a peer with a class twice."""
    if peers < 1 or not 1 <= each <= classes or peers * each < classes:
        raise ConfigError(
            f"{peers} peers with {each} primary classes each do not cover {classes} classes, or name one twice"
        )
    return tuple(tuple(sorted((peer * each + k) % classes for k in range(each))) for peer in range(peers))


def skewed(y: Tensor, primary: Sequence[Sequence[int]], *, skew: float = 100.0, seed: int = 0) -> list[Tensor]:
    """Each sample goes to one peer, drawn with weight 1 + skew where its class is primary and weight 1 elsewhere.

    `y`: labels int64 (N,); `primary`: the primary classes of each peer. skew 0: the class does not matter; infinite:
    primary peers only. Raises ConfigError for a negative skew or class, a class that is nobody's while the skew is
    infinite, or a peer that is left without samples.
    """
    if not skew >= 0:
        raise ConfigError(f"skew must be at least 0, not {skew}")
    if not primary or not len(y):
        raise ConfigError(f"{len(y)} samples cannot be divided among {len(primary)} peers")
    holds = _holds(primary, int(y.max()) + 1)
    weights = holds if math.isinf(skew) else 1 + skew * holds
    upto = weights.cumsum(dim=1)  # whole numbers for an infinite skew: no rounding lets a sample slip to a stranger
    nobodys = [c for c in y.unique().tolist() if not float(upto[c, -1])]
    if nobodys:
        raise ConfigError(f"class {nobodys[0]} is primary for nobody: with an infinite skew nobody could hold it")
    lots = torch.rand(len(y), 1, dtype=torch.float64, generator=seeded_rng("skew", seed)) * upto[y, -1:]
    holder = (lots >= upto[y]).sum(dim=1)  # (N,): the first peer up to which the weights exceed the lot
    parts = [torch.nonzero(holder == peer).reshape(-1) for peer in range(len(primary))]
    for peer, part in enumerate(parts):
        if not len(part):
            raise ConfigError(f"peer {peer} is left without samples: {len(y)} are too few for {len(primary)} peers")
    return parts


def _holds(primary: Sequence[Sequence[int]], classes: int) -> Tensor:
    """float64 (classes, peers): 1 where the class is primary for the peer. Classes without samples do not matter."""
    holds = torch.zeros(classes, len(primary), dtype=torch.float64)
    for peer, its in enumerate(primary):
        if any(c < 0 for c in its):
            raise ConfigError(f"peer {peer} has a negative primary class: {sorted(its)}")
        holds[[c for c in its if c < classes], peer] = 1
    return holds
