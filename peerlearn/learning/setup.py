"""The checks of a learner's data, model and optimizer at construction. Each failure is one sentence."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from peerlearn.errors import LearnerError, StateError
from peerlearn.learning import state
from peerlearn.learning.dataset import Unlabelled
from peerlearn.learning.sampler import seeded_rng
from peerlearn.learning.samples import Batch, Labelled, Samples, samples_of
from peerlearn.types import Layer, PublicSet

_PROBE = 2
"""Samples on which the model's output shape is tried: with one, some layers would drop the batch dimension."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a card says about a learner. `histogram`: labelled samples per class in the private training part."""

    classes: int
    histogram: tuple[int, ...]
    architecture: str
    start: str
    """Fingerprint of the initial weights: equal only for learners with a common start."""
    layers: tuple[Layer, ...]
    task: str
    public_sets: tuple[PublicSet, ...]


@dataclass(frozen=True, slots=True, eq=False)
class PrivateData:
    """A learner's samples. `rows`, int64 (N,): row numbers in `samples` to train on. `held_out`: reads the held-out
    samples; None when there are none."""

    samples: Samples
    rows: Tensor
    held_out: Callable[[], Batch | None]
    classes: int


def place(model: nn.Module, device: torch.device | str | None) -> torch.device:
    """Move the model to the device, if one is given. Returns the device that it is on. Raises LearnerError when nothing
    in it can be trained."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise LearnerError("the model has no parameter that can be trained")
    if device is not None:
        model.to(device)
    return next(iter(model.parameters())).device


def template(model: nn.Module) -> nn.Module:
    """A copy on the CPU that is never trained. Any thread may copy it to make a network of another state."""
    state.persistent(model)
    return copy.deepcopy(model).cpu().eval().requires_grad_(False)


def private_data(
    model: nn.Module,
    train_set: Labelled,
    held_out: float | Labelled,
    classes: int | None,
    *,
    seed: int,
    device: torch.device,
) -> PrivateData:
    """Check the data and split off the held-out part. Raises LearnerError."""
    samples = samples_of(train_set)
    width = _classes_of(model, samples.take(torch.arange(min(_PROBE, len(samples)))), classes, device)
    samples.check_labels(width)
    if isinstance(held_out, int | float):
        rows, kept = _split(samples, float(held_out), seed)
        return PrivateData(samples, rows, _reader(samples, kept), width)
    others = samples_of(held_out, what="held_out")
    others.check_labels(width)
    return PrivateData(samples, torch.arange(len(samples)), _reader(others, torch.arange(len(others))), width)


def histogram(samples: Samples, rows: Tensor, classes: int) -> tuple[int, ...]:
    """Samples of these rows per class. May have to read every label."""
    return tuple(torch.bincount(samples.labels()[rows], minlength=classes).tolist())


def checked_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> torch.optim.Optimizer:
    """The optimizer, or Adam when none is given. Raises LearnerError when it holds parameters of another model."""
    if optimizer is None:
        trained = [p for p in model.parameters() if p.requires_grad]
        # One kernel per step takes a third less time for small networks on a CPU. 1e-3 is Adam's published default.
        fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in trained)
        return torch.optim.Adam(trained, lr=1e-3, fused=fused)
    own = {id(p) for p in model.parameters()}
    foreign = sum(id(p) not in own for group in optimizer.param_groups for p in group["params"])
    if foreign:
        raise LearnerError(
            f"the optimizer holds {foreign} parameters that are not the model's; make it from model.parameters() of "
            f"the very model given here"
        )
    return optimizer


def checked_batch_size(batch_size: int) -> int:
    """The batch size. Raises LearnerError when below 1."""
    if batch_size < 1:
        raise LearnerError(f"batch_size must be at least 1, not {batch_size}")
    return batch_size


def checked_public_sets(public_sets: Sequence[Unlabelled]) -> tuple[Unlabelled, ...]:
    """The public sets. Raises LearnerError for other types, and for two of one name."""
    for public in public_sets:
        if not isinstance(public, Unlabelled):
            raise LearnerError(
                f"public_sets: a {type(public).__name__} was given; make it with Unlabelled(x, ids, name) or "
                f"Dataset.unlabelled()"
            )
    names = [public.name for public in public_sets]
    if len(set(names)) < len(names):
        raise LearnerError(f"public_sets: two have the same name among {', '.join(sorted(names))}")
    return tuple(public_sets)


def _classes_of(model: nn.Module, probe: Batch, classes: int | None, device: torch.device) -> int:
    x = probe.x.to(device)
    with torch.no_grad(), state.in_mode(model, training=False):
        try:
            logits = model(x)
        except (RuntimeError, TypeError, ValueError) as exc:
            raise LearnerError(f"the model does not take inputs of shape {tuple(x.shape)}: {exc}") from exc
    width = classes if classes is not None else (logits.shape[1] if _is_matrix(logits) else 0)
    if not _is_matrix(logits) or tuple(logits.shape) != (len(x), width):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise LearnerError(
            f"the model gives {got} for a batch of {len(x)}; it must give logits ({len(x)}, {classes or 'classes'})"
        )
    return int(width)


def _is_matrix(logits: object) -> bool:
    return isinstance(logits, Tensor) and logits.dim() == 2


def _split(samples: Samples, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows held out, both rising. With known labels the share is taken class by class, and at
    least one sample of every class that has two, so that the gate sees every class."""
    if not 0 <= share < 1:
        raise LearnerError(f"held_out must be a share of at least 0 and below 1, or labelled data, not {share}")
    every = torch.arange(len(samples))
    if share == 0:
        return every, every[:0]
    shuffled = every[torch.randperm(len(samples), generator=seeded_rng("held out", seed))]
    labels = samples.known_labels()
    if labels is None:
        kept = shuffled[: round(share * len(samples))]
    else:
        classes = [shuffled[labels[shuffled] == c] for c in labels.unique()]
        kept = torch.cat([rows[: max(round(share * len(rows)), int(len(rows) > 1))] for rows in classes])
    trained = torch.ones(len(samples), dtype=torch.bool)
    trained[kept] = False
    if not bool(trained.any()):
        raise LearnerError(f"held_out={share} leaves nothing to train on: the train_set has {len(samples)} samples")
    return every[trained], kept.sort().values


def _reader(samples: Samples, rows: Tensor) -> Callable[[], Batch | None]:
    """A function that reads the held-out samples at its first call and keeps them."""

    @cache
    def read() -> Batch | None:
        return samples.take(rows) if len(rows) else None

    return read


def check_saved(saved: Mapping[str, Any], architecture: str, **own: int) -> None:
    """Raises StateError unless a saved state belongs to a learner with this architecture and these settings."""
    if saved.get("architecture") != architecture:
        raise StateError("this state is of another model; give the same model as when it was saved")
    for what, value in own.items():
        if saved.get(what) != value:
            raise StateError(f"this state was saved with {what} {saved.get(what)}, this learner has {value}")
