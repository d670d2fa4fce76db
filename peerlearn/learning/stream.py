"""Request batches that arrive one after another: a seeded stream, and a learner that learns from it.

The workloads are those of CLUE (Daga et al., section 7.1): classes are introduced, or come and go, and overlap with
another peer's classes or do not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from peerlearn.errors import ConfigError, StateError
from peerlearn.learning.dataset import Dataset, Unlabelled
from peerlearn.learning.learner import Learner, Loss
from peerlearn.learning.sampler import Sampler, derived, seeded_rng
from peerlearn.learning.samples import Batch, Labelled
from peerlearn.learning.setup import Facts
from peerlearn.learning.state import in_mode


@dataclass(frozen=True, slots=True)
class Phase:
    """A number of request batches with the class proportions `mix`, a mapping from class to weight. Raises
    ConfigError."""

    batches: int
    mix: Mapping[int, float]

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise ConfigError(f"a phase of a stream lasts at least one batch, not {self.batches}")
        if not self.mix or not all(weight > 0 for weight in self.mix.values()):
            raise ConfigError(f"a phase of a stream needs classes with positive weights, not {dict(self.mix)}")


def steady(classes: Sequence[int], *, batches: int = 120) -> tuple[Phase, ...]:
    """One phase with these classes, equally often."""
    return (Phase(batches, dict.fromkeys(classes, 1.0)),)


def introduction(
    own: Sequence[int], new: Sequence[int], *, before: int = 20, after: int = 100, share: float = 0.3
) -> tuple[Phase, ...]:
    """First only `own` classes, for `before` batches. Then the `new` classes together make up a `share` of each batch,
    for `after` batches. The defaults leave an isolated model time to adapt."""
    return (*steady(own, batches=before), Phase(after, _mixed(own, new, share)))


def fluctuation(
    own: Sequence[int],
    new: Sequence[int],
    *,
    before: int = 20,
    present: int = 30,
    absent: int = 20,
    times: int = 2,
    share: float = 0.3,
) -> tuple[Phase, ...]:
    """Like `introduction`, but the `new` classes vanish after `present` batches and return after `absent` more, `times`
    times in all."""
    if times < 1:
        raise ConfigError(f"new classes appear at least once, not {times} times")
    there, gone = Phase(present, _mixed(own, new, share)), steady(own, batches=absent)
    return (*steady(own, batches=before), *(there, *gone) * (times - 1), there)


def provider_classes(own: Sequence[int], new: Sequence[int], *, classes: int, overlapping: bool) -> tuple[int, ...]:
    """Classes of a provider that can help a peer with `own` classes when `new` ones appear. `overlapping`: all of both.
    Otherwise: the new ones, and the others that are not `own`."""
    if overlapping:
        return tuple(sorted({*own, *new}))
    return tuple(sorted({*new, *range(classes)} - (set(own) - set(new))))


class Stream:
    """Labelled request batches of `batch_size` samples, drawn from `data` by the seed alone.

    For each request a label is drawn by the phase's proportions, and then a sample of that class. No sample is repeated
    before all samples of its class were served. The stream has as many batches as its phases together; after the last
    one it repeats its last phase. Raises ConfigError for a class without samples.
    """

    def __init__(self, data: Dataset, phases: Sequence[Phase], *, batch_size: int = 100, seed: int = 0) -> None:
        if not phases or batch_size < 1:
            raise ConfigError(f"a stream needs phases and batches of at least 1, not {len(phases)} and {batch_size}")
        self.data, self.phases, self.batch_size, self.seed = data, tuple(phases), batch_size, seed
        self.rows = _drawn(data, self.phases, batch_size, seed)  # int64 (batches, batch_size)

    def __len__(self) -> int:
        """Number of request batches before the stream repeats its last phase."""
        return len(self.rows)

    def at(self, number: int) -> Tensor:
        """Rows of `data` in request batch `number` (counted from 0), int64 (batch_size,)."""
        last = self.phases[-1].batches
        begin = len(self) - last
        return self.rows[number if number < len(self) else begin + (number - begin) % last]

    def counts(self, batches: int) -> Tensor:
        """Requests per class in the first `batches` batches, int64 (classes,)."""
        served = self.rows[: min(batches, len(self))].reshape(-1)
        return torch.bincount(self.data.y[served], minlength=self.data.classes)

    @cached_property
    def fingerprint(self) -> int:
        """Seed-sized hash, equal only for the same samples in the same batches."""
        return derived(self.data.fingerprint, self.batch_size, self.rows.tolist())


class InOrder(Sampler):
    """Sampler over a stream's batches in their order. Position (epoch, p) is batch epoch * len(stream) + p."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(len(stream) * stream.batch_size, stream.batch_size, seed=stream.seed)
        self.per_epoch = len(stream)
        self._stream = stream

    @property
    def served(self) -> int:
        """Batches taken so far."""
        return self.epoch * self.per_epoch + self.position

    def next(self) -> Tensor:
        """Rows of the next batch, int64 (B,)."""
        rows = self._stream.at(self.served)
        self.skip(1)
        return rows


class StreamLearner(Learner):
    """A learner whose private data is a stream: one step is one request batch, an epoch is the whole stream.

    Everything else is as in `Learner`. `held_out`: labelled data of its own for the gate; None: nothing is held out.
    Its histogram counts the requests served so far, not future ones.
    """

    def __init__(
        self,
        model: nn.Module,
        stream: Stream,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        held_out: Labelled | None = None,
        seed: int = 0,
        loss: Loss | None = None,
        task: str = "",
        public_sets: Sequence[Unlabelled] = (),
        device: torch.device | str | None = None,
        start: str = "",
    ) -> None:
        super().__init__(
            model,
            stream.data,
            optimizer=optimizer,
            classes=stream.data.classes,
            batch_size=stream.batch_size,
            held_out=0.0 if held_out is None else held_out,
            seed=seed,
            loss=loss,
            task=task,
            public_sets=public_sets,
            device=device,
            start=start,
        )
        self.stream = stream
        self._requests = InOrder(stream)
        self._sampler = self._requests

    @property
    def served(self) -> int:
        """Request batches taken so far."""
        return self._requests.served

    def describe(self) -> Facts:
        """The facts about this learner, with a histogram of the requests served so far."""
        return replace(super().describe(), histogram=tuple(self.stream.counts(self.served).tolist()))

    def sample(self, amount: int) -> Tensor:
        """Inputs of the first requests, (k, ...) with k <= amount."""
        return self.stream.data.x[self.stream.rows.reshape(-1)[:amount]]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "stream": self.stream.fingerprint}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`. Raises StateError, before anything is changed, for a state saved with another
        stream."""
        if saved.get("stream") != self.stream.fingerprint:
            raise StateError("this state was saved while learning from another stream; give the same data and phases")
        super().load_state_dict(saved)


def learn(learner: Learner, batch: Batch, *, passes: int = 1, minibatch: int = 0) -> tuple[int, float]:
    """Train on one request batch: `passes` over it, in steps on nearly equal parts of at most `minibatch` samples. With
    0 a step takes the whole batch, and one pass then equals `Learner.fit`. Returns the number of optimizer steps and
    the mean loss per sample. Raises Diverged."""
    parts = _parts(batch, minibatch) * passes
    total = 0.0
    with in_mode(learner.model, training=True):
        for n, part in enumerate(parts):
            with learner.chance(f"step {n}" if n else "step"):
                total += learner.step(learner.loss(learner.model(part.x), part.y)) * len(part)
    return len(parts), total / (len(batch) * passes)


def _parts(batch: Batch, size: int) -> list[Batch]:
    """The batch in parts, none with a single sample if that can be avoided: BatchNorm cannot train on one."""
    if not size:
        return [batch]
    wanted = -(-len(batch) // size)
    count = wanted if size == 1 else min(wanted, max(1, len(batch) // 2))
    whole = (torch.tensor_split(t, count) for t in (batch.x, batch.y, batch.ids))
    return [Batch(*part) for part in zip(*whole, strict=True)]


def _mixed(own: Sequence[int], new: Sequence[int], share: float) -> dict[int, float]:
    if not 0 < share < 1 or not own or not new or set(own) & set(new):
        raise ConfigError(f"new classes need a share between 0 and 1, and to be others than one's own: {own}, {new}")
    return {c: (1 - share) / len(own) for c in own} | {c: share / len(new) for c in new}


def _drawn(data: Dataset, phases: Sequence[Phase], batch_size: int, seed: int) -> Tensor:
    """Draw all requests: rows int64 (batches, batch_size)."""
    every = {c for phase in phases for c in phase.mix}
    decks = {c: _Deck(torch.nonzero(data.y == c).reshape(-1), c, seed) for c in sorted(every)}
    batches: list[Tensor] = []
    for phase in phases:
        classes = torch.tensor(sorted(phase.mix))
        weights = torch.tensor([phase.mix[int(c)] for c in classes], dtype=torch.float64)
        for _ in range(phase.batches):
            rng = seeded_rng("requests", seed, len(batches))
            labels = classes[torch.multinomial(weights, batch_size, replacement=True, generator=rng)]
            rows = torch.empty(batch_size, dtype=torch.int64)
            for c in labels.unique().tolist():
                rows[labels == c] = decks[c].deal(int((labels == c).sum()))
            batches.append(rows)
    return torch.stack(batches)


class _Deck:
    """The shuffled samples of one class; shuffled again when all have been dealt."""

    def __init__(self, rows: Tensor, label: int, seed: int) -> None:
        if not len(rows):
            raise ConfigError(f"the stream is to show class {label}, of which its data holds no sample")
        self._rows, self._named = rows, (label, seed)
        self._laps = 0
        self._left = rows[:0]

    def deal(self, amount: int) -> Tensor:
        """The rows of the next `amount` samples, int64 (amount,)."""
        while len(self._left) < amount:
            rng = seeded_rng("deck", *self._named, self._laps)
            self._left = torch.cat([self._left, self._rows[torch.randperm(len(self._rows), generator=rng)]])
            self._laps += 1
        dealt, self._left = self._left[:amount], self._left[amount:]
        return dealt
