"""Who holds which samples: every function returns, per peer, rising row numbers of the whole set, int64 (k,)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from peerlearn.errors import ConfigError
from peerlearn.learning.sampler import seeded_rng


def by_classes(y: Tensor, groups: Sequence[Sequence[int]], *, overlap: float = 0.05, seed: int = 0) -> list[Tensor]:
    """Peer i holds the samples of the classes `groups[i]`, and random samples of all classes on top.

    Pairwise transfer, section 3: each private set is mixed with a random share `overlap` of the whole set, drawn for
    each peer by itself. A class that several groups name is dealt out among them. `y`: labels int64 (N,).
    Raises ConfigError for an overlap outside 0..1 or a class without samples.
    """
    if not 0 <= overlap <= 1:
        raise ConfigError(f"overlap must be a share between 0 and 1, not {overlap}")
    own: list[list[Tensor]] = [[] for _ in groups]
    for c in sorted({c for group in groups for c in group}):
        holders = [i for i, group in enumerate(groups) if c in group]
        rows = torch.nonzero(y == c).reshape(-1)
        if len(rows) < len(holders):
            raise ConfigError(f"class {c} has {len(rows)} samples for the {len(holders)} peers that are to hold it")
        dealt = rows[torch.randperm(len(rows), generator=seeded_rng("deal", seed, c))]
        for holder, part in zip(holders, torch.tensor_split(dealt, len(holders)), strict=True):
            own[holder].append(part)
    mixed_in = round(overlap * len(y))
    return [
        torch.cat([*parts, torch.randperm(len(y), generator=seeded_rng("overlap", seed, i))[:mixed_in]]).unique()
        for i, parts in enumerate(own)
    ]


def iid(y: Tensor, peers: int, *, seed: int = 0) -> list[Tensor]:
    """Equal random parts."""
    _check_peers(peers, len(y))
    shuffled = torch.randperm(len(y), generator=seeded_rng("iid", seed))
    return [part.sort().values for part in torch.tensor_split(shuffled, peers)]


def dirichlet(y: Tensor, peers: int, *, alpha: float = 0.5, seed: int = 0) -> list[Tensor]:
    """Each class is divided among the peers in proportions drawn from Dirichlet(alpha); small alpha, strong skew.

    A peer that already has its equal part of the whole gets no more of a class while others lack (the balance guard of
    FedML), so that no peer is left with nothing.
    """
    _check_peers(peers, len(y))
    if alpha <= 0:
        raise ConfigError(f"alpha must be positive, not {alpha}")
    source = seeded_rng("dirichlet", seed)
    parts: list[list[Tensor]] = [[] for _ in range(peers)]
    for c in y.unique():
        rows = torch.nonzero(y == c).reshape(-1)
        rows = rows[torch.randperm(len(rows), generator=source)]
        shares = torch._sample_dirichlet(torch.full((peers,), alpha, dtype=torch.float64), generator=source)
        full = torch.tensor([sum(map(len, part)) >= len(y) / peers for part in parts])
        shares = torch.where(full, torch.zeros_like(shares), shares) + 1e-12 * ~full
        cuts = (shares.cumsum(0) / shares.sum() * len(rows)).round().long()[:-1]
        for part, piece in zip(parts, torch.tensor_split(rows, cuts), strict=True):
            part.append(piece)
    return [torch.cat(part).sort().values for part in parts]


def _check_peers(peers: int, samples: int) -> None:
    if not 1 <= peers <= samples:
        raise ConfigError(f"{samples} samples cannot be divided among {peers} peers")
