"""Which of a model's parameters matter for certain classes, and those of them that matter most, as sparse knowledge.

CLUE (Daga et al.), section 5.2.1. Equation (1): the sensitivity of class c to parameter W_j is |d s_c / d W_j| with
s_c the class's output summed over stored requests. For several classes the sensitivities are averaged; of each tensor
the top Z % go out.
"""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from peerlearn.errors import KnowledgeError
from peerlearn.knowledge import Json, Params, Sparse
from peerlearn.learning.sampler import seeded_rng
from peerlearn.learning.samples import Batch
from peerlearn.learning.snapshot import Snapshot

_CHUNK = 512
_TIE = 1e-6
Picker = Literal["sensitivity", "random"]
Gradients = Mapping[str, Tensor]
"""By name of parameter, each of its parameter's shape."""


@dataclass(frozen=True, slots=True, eq=False)
class SignificanceView:
    """What a provider needs to answer, beside the snapshot: the last request batches, on the CPU; labelled samples seen
    per class; and, when sensitivities are gathered continuously, the sums of gradients per class."""

    batches: tuple[Batch, ...]
    seen: tuple[int, ...]
    sums: Mapping[int, Gradients] | None = None


@dataclass(frozen=True, slots=True)
class SignificanceQuery:
    classes: tuple[int, ...]
    top_percent: float
    picker: Picker


def read(select: Mapping[str, Json], seen: Sequence[int], *, unseen: bool) -> SignificanceQuery:
    """A consumer's question. Raises KnowledgeError when it makes no sense here: when classes are not different ones
    that exist or, unless `unseen` are allowed, when there is one of which no sample was seen."""
    asked, share, picker = (select.get(key) for key in ("classes", "top_percent", "picker"))
    named = tuple(c for c in asked if type(c) is int and 0 <= c < len(seen)) if isinstance(asked, list) else ()
    if not named or not isinstance(asked, list) or len(set(named)) < len(asked):
        raise KnowledgeError(f"classes must be a list of different numbers below {len(seen)}")
    if not unseen and (strange := [c for c in named if not seen[c]]):
        raise KnowledgeError(f"I have seen no sample of class {strange[0]}")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 100:
        raise KnowledgeError("top_percent must be a number from 0 to 100")
    chosen = next((known for known in get_args(Picker) if known == picker), None)
    if chosen is None:
        raise KnowledgeError(f"picker must be one of {', '.join(get_args(Picker))}")
    return SignificanceQuery(named, share, chosen)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Weights and biases by the names they have in the state; shared ones under each of their names. What else the
    state holds (running statistics, counters) is not selected from: it goes whole."""
    return {name: p for name, p in model.named_parameters(remove_duplicate=False) if p.is_floating_point()}


def class_gradients(model: nn.Module, batches: Sequence[Batch], classes: Iterable[int]) -> dict[int, Gradients]:
    """d s_c / d W for each class: s_c sums the logit of c over the stored samples labelled c or, when there is none,
    the softmax probability of c over all of them (own samples saturate the softmax, others drown the logit).

    No logit of c depends on the output weights of other classes, which are most of the last layer: among such weights
    those come first on which the probability of c depends, since they tell c from what it is taken for. (Of six seeds
    of `clue-introduction`, one helper was useless where mere position decided.)

    The model is not touched: the gradients are taken on a copy in eval mode. Without batches: zeros.
    """
    return _differentiate(model, batches, tuple(dict.fromkeys(classes)), fallback=True)


def added(sums: Mapping[int, Gradients], model: nn.Module, batch: Batch) -> dict[int, Gradients]:
    """The running sums with one more batch: signed gradients of the outputs of the classes that are in it, by the model
    as it is now. New tensors, so that what was published stays as it was."""
    new = _differentiate(model, [batch], batch.y.unique().tolist(), fallback=False)
    return {**sums, **{c: _sum(sums[c], grads) if c in sums else grads for c, grads in new.items()}}


def sensitivity(gradients: Sequence[Gradients]) -> dict[str, Tensor]:
    """sens = mean over classes of |d s_c / d W|: absolute per class first."""
    return {name: torch.stack([g[name].abs() for g in gradients]).mean(dim=0) for name in gradients[0]}


def by_sensitivity(snapshot: Snapshot, shown: SignificanceView, classes: Sequence[int]) -> dict[str, Tensor]:
    """Scores by which to select: the sums that were gathered, else gradients on the stored batches, on demand."""
    wanted = tuple(dict.fromkeys(classes))
    gathered = {c: shown.sums[c] for c in wanted if c in shown.sums} if shown.sums is not None else {}
    missing = [c for c in wanted if c not in gathered]
    grads = {**gathered, **(class_gradients(snapshot.module(), shown.batches, missing) if missing else {})}
    return sensitivity([grads[c] for c in wanted])


def by_lot(snapshot: Snapshot, classes: Sequence[int]) -> dict[str, Tensor]:
    """The control: scores drawn at random, from the version and the classes alone."""
    source = seeded_rng("by lot", snapshot.version, *sorted(set(classes)))
    return {name: torch.rand(p.shape, generator=source) for name, p in weights_of(snapshot.module()).items()}


def amount(top_percent: float, count: int) -> int:
    """k = ceil(Z / 100 * n), in exact arithmetic."""
    return math.ceil(Fraction(str(top_percent)) * count / 100)


def top(scores: Tensor, k: int) -> Tensor:
    """Flat positions of the k highest scores, rising, int64 (k,). Of equal scores the first come first: exactly k are
    selected however many are zero, and a smaller selection is part of every larger one."""
    flat = torch.nan_to_num(scores.reshape(-1))
    if k == 0:
        return torch.empty(0, dtype=torch.int64)
    least = flat.kthvalue(len(flat) - k + 1).values
    above = torch.nonzero(flat > least).reshape(-1)
    level = torch.nonzero(flat == least).reshape(-1)[: k - len(above)]
    return torch.cat([above, level]).sort().values


def significant(snapshot: Snapshot, scores: Mapping[str, Tensor], top_percent: float) -> Params:
    """The snapshot's values at the top Z % of each tensor, and (but for Z = 0) what is no parameter as it is."""
    tensors: dict[str, Tensor | Sparse] = {}
    for name, tensor in snapshot.state.items():
        if name in scores:
            indices = top(scores[name], amount(top_percent, tensor.numel()))
            tensors[name] = Sparse(tuple(tensor.shape), indices, tensor.reshape(-1)[indices])
        elif top_percent > 0:
            tensors[name] = tensor
    return Params(tensors=tensors, architecture=snapshot.architecture, version=snapshot.version)


def _differentiate(
    model: nn.Module, batches: Sequence[Batch], classes: Sequence[int], *, fallback: bool
) -> dict[int, Gradients]:
    twin = copy.deepcopy(model).eval().requires_grad_(False)
    weights = weights_of(twin)
    for weight in weights.values():
        weight.requires_grad_(True)
    device = next(twin.parameters()).device

    def summed(so_far: Gradients, output: Tensor, *, again: bool) -> dict[str, Tensor]:
        grads = torch.autograd.grad(output, list(weights.values()), retain_graph=again, allow_unused=True)
        return _sum(so_far, {n: g for n, g in zip(weights, grads, strict=True) if g is not None})

    nothing = {n: torch.zeros(w.shape, dtype=w.dtype) for n, w in weights.items()}
    sums: dict[int, dict[str, Tensor]] = {c: dict(nothing) for c in classes}
    unseen = []
    with torch.enable_grad():
        for c in classes:
            mine = [x for batch in batches if len(x := batch.x[batch.y == c])]  # of others s_c says nothing
            if not mine:
                unseen.append(c)
            for x in (part for samples in mine for part in samples.split(_CHUNK)):
                sums[c] = summed(sums[c], _output(twin(x.to(device)), c), again=False)
        if fallback and unseen:
            for x in (part for batch in batches for part in batch.x.split(_CHUNK)):
                chances = twin(x.to(device)).softmax(dim=1)
                for c in unseen:
                    sums[c] = summed(sums[c], chances[:, c].sum(), again=True)
    return dict(sums)


def _output(logits: Tensor, c: int) -> Tensor:
    """s_c of samples of class c, logits (B, C): the sum of their logits of c and, of too little weight to matter where
    those depend on a parameter at all, of the logarithms of the probabilities of c."""
    return logits[:, c].sum() + _TIE * logits.log_softmax(dim=1)[:, c].sum()


def _sum(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t + two[name].cpu() if name in two else t for name, t in one.items()}
