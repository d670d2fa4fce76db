"""Selection of the parameters of a model that matter most for certain classes, as sparse knowledge.

CLUE (Daga et al.), section 5.2.1. Equation (1): the sensitivity of class c to parameter W_j is |d s_c / d W_j|, with
s_c the class's output summed over stored requests. For several classes the sensitivities are averaged. The top Z % of
each tensor are sent.
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
"""Samples per backward pass: bounds the memory of the activations."""
_TIE = 1e-6
"""Weight of the tie-breaking term in `_output`: about float32's relative precision, so that it decides only between
equals."""
Picker = Literal["sensitivity", "random"]
"""How parameters are selected; random is a control."""
Gradients = Mapping[str, Tensor]
"""Gradients by parameter name, each of its parameter's shape."""


@dataclass(frozen=True, slots=True, eq=False)
class SignificanceView:
    """What a provider needs to answer, beside the snapshot: the last request batches on the CPU; labelled samples seen
    per class; and, with continuous selection, the sums of gradients per class."""

    batches: tuple[Batch, ...]
    seen: tuple[int, ...]
    sums: Mapping[int, Gradients] | None = None


@dataclass(frozen=True, slots=True)
class SignificanceQuery:
    """A consumer's query, checked."""

    classes: tuple[int, ...]
    top_percent: float
    picker: Picker


def read(select: Mapping[str, Json], seen: Sequence[int], *, unseen: bool) -> SignificanceQuery:
    """Check a consumer's query. Raises KnowledgeError for an invalid value: classes must exist and differ, and each
    must have been seen here unless `unseen` are allowed."""
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
    """Weights and biases by their names in the state; a shared one appears under each of its names. The rest of the
    state (running statistics, counters) is not selected from, but sent whole."""
    return {name: p for name, p in model.named_parameters(remove_duplicate=False) if p.is_floating_point()}


def class_gradients(model: nn.Module, batches: Sequence[Batch], classes: Iterable[int]) -> dict[int, Gradients]:
    """d s_c / d W for each class. s_c is the sum of the logits of c over the stored samples labelled c. Without such
    samples it is the sum of the softmax probabilities of c over all samples. The reason: samples of the class saturate
    the softmax, and samples of other classes drown the logit.

    The logit of c does not depend on the output weights of other classes, which are most of the last layer. Such ties
    are broken by the influence on the probability of c, which tells c from the classes it is mistaken for. (In one of
    six seeds of `clue-introduction`, a helper was useless when mere position broke the ties.)

    The gradients are taken on a copy in eval mode; the model is not touched. Without batches they are zero.
    """
    return _differentiate(model, batches, tuple(dict.fromkeys(classes)), fallback=True)


def added(sums: Mapping[int, Gradients], model: nn.Module, batch: Batch) -> dict[int, Gradients]:
    """The running sums plus the signed gradients of one more batch, for the classes in it, by the present model. All
    tensors are new, so that published sums do not change."""
    new = _differentiate(model, [batch], batch.y.unique().tolist(), fallback=False)
    return {**sums, **{c: _sum(sums[c], grads) if c in sums else grads for c, grads in new.items()}}


def sensitivity(gradients: Sequence[Gradients]) -> dict[str, Tensor]:
    """Mean over classes of |d s_c / d W|; the absolute value is taken per class."""
    return {name: torch.stack([g[name].abs() for g in gradients]).mean(dim=0) for name in gradients[0]}


def by_sensitivity(snapshot: Snapshot, shown: SignificanceView, classes: Sequence[int]) -> dict[str, Tensor]:
    """Scores for the selection: from the running sums if there are any for a class, else from gradients on the stored
    batches."""
    wanted = tuple(dict.fromkeys(classes))
    gathered = {c: shown.sums[c] for c in wanted if c in shown.sums} if shown.sums is not None else {}
    missing = [c for c in wanted if c not in gathered]
    grads = {**gathered, **(class_gradients(snapshot.module(), shown.batches, missing) if missing else {})}
    return sensitivity([grads[c] for c in wanted])


def by_lot(snapshot: Snapshot, classes: Sequence[int]) -> dict[str, Tensor]:
    """Random scores for the control, drawn from the version and the classes alone."""
    rng = seeded_rng("by lot", snapshot.version, *sorted(set(classes)))
    return {name: torch.rand(p.shape, generator=rng) for name, p in weights_of(snapshot.module()).items()}


def amount(top_percent: float, count: int) -> int:
    """k = ceil(Z / 100 * n), in exact arithmetic."""
    return math.ceil(Fraction(str(top_percent)) * count / 100)


def top(scores: Tensor, k: int) -> Tensor:
    """Flat positions of the k highest scores, rising, int64 (k,). Among equal scores the first positions win. So
    exactly k are selected however many scores are zero, and a smaller selection is part of every larger one."""
    flat = torch.nan_to_num(scores.reshape(-1))
    if k == 0:
        return torch.empty(0, dtype=torch.int64)
    least = flat.kthvalue(len(flat) - k + 1).values
    above = torch.nonzero(flat > least).reshape(-1)
    level = torch.nonzero(flat == least).reshape(-1)[: k - len(above)]
    return torch.cat([above, level]).sort().values


def significant(snapshot: Snapshot, scores: Mapping[str, Tensor], top_percent: float) -> Params:
    """The snapshot's values at the top Z % of each parameter, and (unless Z = 0) all its other tensors whole."""
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
            mine = [x for batch in batches if len(x := batch.x[batch.y == c])]  # s_c depends on samples of class c only
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
    """s_c for samples of class c with logits (B, C): the sum of their logits of c, plus `_TIE` times the sum of their
    log-probabilities of c. The second term matters only for parameters that do not influence the first."""
    return logits[:, c].sum() + _TIE * logits.log_softmax(dim=1)[:, c].sum()


def _sum(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t + two[name].cpu() if name in two else t for name, t in one.items()}
