"""The loss terms of multi-headed distillation (Zhmoginov et al. 2023): targets by confidence, soft labels,
embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

TeacherRule = Literal["confident", "random", "mean"]
"""How the target is made of the candidates, see `target`."""

_EPS = 1e-8
"""Keeps the normalisation of a zero embedding finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aims:
    """The distillation part of a joint step's loss. `heads`: m; the other fields as in `MHD`."""

    heads: int
    nu_emb: float
    nu_aux: float
    teacher: TeacherRule
    include_self: bool
    same_level: bool
    skip_confident: bool


def confidence(logits: Tensor) -> Tensor:
    """The largest probability, (..., C) -> (...), between 1/C and 1."""
    return logits.softmax(dim=-1).amax(dim=-1)


def target(candidates: Sequence[Tensor], how: TeacherRule, rng: torch.Generator) -> Tensor:
    """The target probabilities (B, C), detached, made of the candidates' logits (B, C).

    confident: per sample the candidate with the largest probability, the first among equals. random: per sample a
    random candidate, drawn from `rng` (a control). mean: the mean of all candidates' probabilities, summed in float64.
    """
    stacked = torch.stack([logits.detach() for logits in candidates]).softmax(dim=2)  # (J, B, C)
    if how == "mean":
        return stacked.double().mean(dim=0).to(stacked.dtype)
    count, samples = stacked.shape[:2]
    if how == "random":
        chosen = torch.randint(count, (samples,), generator=rng).to(stacked.device)
    else:
        chosen = first_largest(stacked.amax(dim=2))
    return stacked[chosen, torch.arange(samples, device=stacked.device)]


def first_largest(values: Tensor) -> Tensor:
    """For each column of (J, B) the first row that holds its largest value, int64 (B,)."""
    rows = torch.arange(len(values), device=values.device)[:, None].expand_as(values)
    return torch.where(values == values.amax(dim=0), rows, len(values)).amin(dim=0)


def soft_cross_entropy(target: Tensor, logits: Tensor, counts: Tensor | None = None) -> Tensor:
    """H(q, softmax z) = -sum_c q_c log softmax(z)_c, averaged over the batch; q, z (B, C).

    `counts` bool (B,): samples with False add zero to the sum, but stay in the denominator.
    """
    each = -(target * F.log_softmax(logits, dim=1)).sum(dim=1)
    return (each if counts is None else each * counts).mean()


def less_sure(logits: Tensor, candidates: Sequence[Tensor]) -> Tensor:
    """Samples, bool (B,), for which some candidate is more confident than the student with these logits."""
    surest = torch.stack([confidence(each) for each in candidates]).amax(dim=0)
    return confidence(logits.detach()) < surest


def embedding_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over the batch of || a/|a| - b/|b| ||^2 for embeddings (B, d): 0 for equal directions, at most 4. The
    teacher is detached."""
    a = F.normalize(student, dim=1, eps=_EPS)
    b = F.normalize(teacher.detach(), dim=1, eps=_EPS)
    return (a - b).square().sum(dim=1).mean()


def embedding_term(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Mean distance over (student, teacher) pairs, summed in float64 in the order given."""
    total = torch.zeros((), dtype=torch.float64, device=pairs[0][0].device)
    for student, teacher in pairs:
        total = total + embedding_distance(student, teacher).double()
    return (total / len(pairs)).to(pairs[0][0].dtype)


def head_term(
    student: Sequence[Tensor], teachers: Sequence[Sequence[Tensor]], head: int, aims: Aims, rng: torch.Generator
) -> Tensor:
    """H(q, softmax h_k) on a public batch, a scalar: the loss of head k = `head`.

    The candidates for q are the teachers' heads k-1, with `same_level` also their heads k, and with `include_self`, as
    the last one, the student's own head k-1. Head 0 distils in plain distillation only, from the teachers' heads 0.
    `student` and each of `teachers`: logits (B, C) by head. Gradients reach the student's head k and the trunk, nothing
    else.
    """
    before = max(0, head - 1)
    candidates = [theirs[before] for theirs in teachers]
    if aims.same_level and head > 0:
        candidates += [theirs[head] for theirs in teachers]
    if aims.include_self and head > 0:
        candidates.append(student[before].detach())
    counts = less_sure(student[head], candidates) if aims.skip_confident else None
    return soft_cross_entropy(target(candidates, aims.teacher, rng), student[head], counts)
