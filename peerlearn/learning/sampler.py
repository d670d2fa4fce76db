"""The order in which samples are visited: one permutation per epoch, which depends on the seed alone, and a position in
it."""

import hashlib

import torch
from torch import Tensor

from peerlearn.types import Span


def derived(*parts: object) -> int:
    """A seed in 0..2^63-1 made of the parts by sha256; equal on every machine."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seeded_rng(*parts: object) -> torch.Generator:
    """A CPU generator with the seed derived from the parts."""
    return torch.Generator().manual_seed(derived(*parts))


class Sampler:
    """Batches of row numbers. Its state is (epoch, position): a span starts where the last one ended.

    An epoch is cut into batches of nearly equal size, none larger than `batch_size`. No batch has a single row, on
    which BatchNorm cannot train, unless the sizes leave no other way.
    """

    def __init__(self, length: int, batch_size: int, *, seed: object) -> None:
        self._length = length
        self._seed = seed
        wanted = -(-length // batch_size)
        self.per_epoch = wanted if batch_size == 1 else min(wanted, max(1, length // 2))
        self.epoch = 0
        self.position = 0
        self._cut: tuple[int, tuple[Tensor, ...]] | None = None

    def count(self, span: Span) -> int:
        """Number of batches in a span."""
        return span.amount * (self.per_epoch if span.unit == "epochs" else 1)

    def next(self) -> Tensor:
        """Rows of the next batch, int64 (B,)."""
        rows = self._batches()[self.position]
        self.skip(1)
        return rows

    def skip(self, batches: int) -> None:
        """Move the position forward by `batches` batches."""
        done = self.position + batches
        self.epoch += done // self.per_epoch
        self.position = done % self.per_epoch

    def ahead(self, batches: int) -> Tensor:
        """Rows int64 (B,) of the batch that comes after `batches` others. The position does not move."""
        scout = type(self).__new__(type(self))
        scout.__dict__.update(self.__dict__)
        scout.skip(batches)
        return scout.next()

    def state(self) -> tuple[int, int]:
        """The epoch, and the position within it, for `go_to`."""
        return self.epoch, self.position

    def go_to(self, epoch: int, position: int) -> None:
        """Set the epoch and the position within it."""
        self.epoch, self.position = epoch, position

    def _batches(self) -> tuple[Tensor, ...]:
        if self._cut is None or self._cut[0] != self.epoch:
            shuffled = torch.randperm(self._length, generator=seeded_rng("order", self._seed, self.epoch))
            self._cut = self.epoch, torch.tensor_split(shuffled, self.per_epoch)
        return self._cut[1]
