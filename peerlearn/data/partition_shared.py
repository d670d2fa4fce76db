"""The globally shared subset of Zhao et al. 2018: a few labelled samples of every class, in everybody's private set."""

from collections.abc import Sequence

import torch
from torch import Tensor

from peerlearn.errors import ConfigError
from peerlearn.learning.sampler import seeded_rng


def shared_subset(y: Tensor, *, share: float = 0.05, seed: int = 0) -> Tensor:
    """Rows int64 (k,), rising, of a random subset G with k about `share` of all N and equally many of each class.

    `y`: labels int64 (N,). Raises ConfigError for a share outside 0..1, or a class with too few samples.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"the shared subset is a share above 0 and at most 1, not {share}")
    classes = y.unique()
    each = max(1, round(share * len(y) / len(classes)))
    drawn = []
    for c in classes.tolist():
        rows = torch.nonzero(y == c).reshape(-1)
        if len(rows) < each:
            raise ConfigError(f"class {c} has {len(rows)} samples, fewer than the {each} of each class to be shared")
        drawn.append(rows[torch.randperm(len(rows), generator=seeded_rng("shared", seed, c))[:each]])
    return torch.cat(drawn).sort().values


def with_shared(parts: Sequence[Tensor], shared: Tensor) -> list[Tensor]:
    """Every part, rows int64 (k_i,), with the shared rows added: rising, each row once."""
    return [torch.cat([part, shared]).unique() for part in parts]
