"""Checks that well-formed knowledge is also plausible in its scale, its labels and its statistics, before it is used.

Every rule compares with this peer's own model or data, and depends on no particular data set. Knowledge that passes is
left to the gate. A failed check does not prove an attack: a model that diverged, or that was fed inputs of another
scale, fails too.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from peerlearn.errors import KnowledgeError
from peerlearn.learning import evaluate
from peerlearn.learning.learner import Learner
from peerlearn.learning.state import dtype_name, magnitude

FACTOR = 100.0
"""Values more than this many times their measure below are refused. Training small networks was seen to move the
largest weight by at most 2.7 times, and the largest logit by 10 times, above that measure; this is ten times as
much."""

LARGEST_WEIGHT = 1.0
"""Lower bound for the measure of weights, the learner's largest own weight: a model may begin at zero."""

LARGEST_LOGIT = 10.0
"""Lower bound for the measure of logits, the learner's largest own logit: untrained networks have logits near zero."""

STATISTICS = 1e6
"""FACTOR for tensors that are not parameters. A running variance is 1 before training and grows with the square of the
inputs, which may not be normalised."""

LOOKED_AT = 256
"""Samples on which a received network is tried: enough to tell chance from knowledge, in a fraction of a second."""

FEWEST = 16
"""With fewer samples than this, wrong answers prove nothing."""

SURPRISE = 2.0
"""A teacher is confident and wrong when the true labels surprise it this many times as much as both a uniform guess and
the learner's own model. Untrained and early models are not confident, so this rule never refuses them."""

_COMPANY = 3
"""Other edges needed for a median of their feature statistics; with fewer, one liar could set the measure."""
_TRIED_ON = 64
"""Private samples on which the outputs of a received network are checked for scale."""


def check_scale(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raises KnowledgeError for a tensor whose values are implausibly large beside the learner's own state
    (`Learner.state`), and for an integer or boolean tensor that differs from the learner's own."""
    _check_constants(tensors, own)
    if magnitude(tensors.values()) <= FACTOR * LARGEST_WEIGHT:  # within bounds for every own state
        return
    for name in sorted(set(tensors) & set(own)):
        if not tensors[name].is_floating_point():
            continue
        theirs, weight = largest(tensors[name]), isinstance(own[name], nn.Parameter)
        factor = FACTOR if weight else STATISTICS
        if theirs <= factor * LARGEST_WEIGHT:
            continue
        mine = _largest_weight(own) if weight else max(LARGEST_WEIGHT, largest(own[name]))
        if theirs > factor * mine:
            raise KnowledgeError(
                f"tensor {name!r} holds values up to {theirs:.3g}, where {mine:.3g} is the measure of this model: more "
                f"than {factor:,.0f} times as large"
            )


def _check_constants(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Index buffers and masks belong to the architecture, and a foreign one may point outside a table. Single numbers
    are exempt: they are counters (batches seen by BatchNorm), which differ between peers."""
    for name, tensor in tensors.items():
        mine = own.get(name)
        if mine is None or tensor.is_floating_point() or tensor.is_complex() or tensor.numel() == 1:
            continue
        if not torch.equal(tensor.cpu(), mine.detach().cpu()):
            raise KnowledgeError(f"tensor {name!r} is of {dtype_name(tensor)} and differs from this model's own")


def _largest_weight(own: Mapping[str, Tensor]) -> float:
    weights = [t for t in own.values() if isinstance(t, nn.Parameter) and t.is_floating_point()]
    return max([LARGEST_WEIGHT, *map(largest, weights)])


def check_logits(theirs: Tensor, own: Callable[[], Tensor]) -> None:
    """Raises KnowledgeError when the logits are implausibly large beside the learner's own on similar samples. `own`
    computes the latter, and is called only in doubt."""
    if (size := largest(theirs)) <= FACTOR * LARGEST_LOGIT:
        return
    mine = max(LARGEST_LOGIT, largest(own()))
    if size > FACTOR * mine:
        raise KnowledgeError(
            f"logits up to {size:.3g} came, where {mine:.3g} is the measure of this model: more than {FACTOR:g} times "
            f"as large"
        )


def check_labels(theirs: Tensor, y: Tensor, *, seen: Sequence[int] = (), own: Callable[[], Tensor]) -> None:
    """Raises KnowledgeError for a teacher that is confident, and yet right less often than by guessing, about classes
    that it and the samples both have: as with shuffled labels.

    `theirs`: the teacher's logits (N, C) on samples with labels y int64 (N,). `own`: computes the learner's logits (N,
    C), called only in doubt. `seen`: the teacher's samples per class. When they are not shown, the classes that it
    predicts stand for the classes that it has, since a model never predicts a class that it has not seen; two such
    classes are then needed. A teacher of other classes than the samples' is never refused.
    """
    found = evaluate.confusion(theirs, y, classes=theirs.shape[1])
    held, guesses = _held(found.sum(dim=0).tolist(), seen)
    counts, right = found.sum(dim=1).tolist(), found.diagonal().tolist()
    claimed = [c for c, count in enumerate(counts) if count and c in held]
    samples = sum(counts[c] for c in claimed)
    if len(claimed) < (1 if seen else 2) or samples < FEWEST:
        return
    recall = sum(right[c] / counts[c] for c in claimed) / len(claimed)
    if recall >= 1 / guesses:
        return
    knowing_nothing, surprise = math.log(theirs.shape[1]), _surprise(theirs, y, claimed)
    if surprise <= SURPRISE * knowing_nothing or surprise <= SURPRISE * _surprise(own(), y, claimed):
        return
    raise KnowledgeError(
        f"it is sure and wrong about classes that both hold: right for {recall:.0%} of {samples} samples, "
        f"where guessing gives {1 / guesses:.0%}; as with shuffled labels, or inputs of another kind"
    )


def check_features(feature: Tensor, others: Sequence[Tensor]) -> None:
    """Raises KnowledgeError when feature maps (N, channels, ...) are the same for all samples, or when their loudest
    channel is implausibly loud or faint beside the others'. The measure is the median of at least three others, so that
    one liar among them cannot set it."""
    rows = feature.flatten(1)
    if len(rows) >= FEWEST and bool((rows == rows[0]).all()):
        raise KnowledgeError(f"the feature maps of all {len(rows)} samples are one and the same")
    if len(others) < _COMPANY:
        return
    measure, loud = sorted(map(_loudest, others))[(len(others) - 1) // 2], _loudest(feature)
    if measure == 0:
        return
    if not measure / FACTOR <= loud <= measure * FACTOR:
        raise KnowledgeError(
            f"feature maps came whose loudest channel is {loud:.3g} (root mean square), where {measure:.3g} is the "
            f"measure of the others: more than {FACTOR:g} times as {'large' if loud > measure else 'small'}"
        )


def some(total: int) -> Tensor:
    """Row numbers of at most LOOKED_AT rows out of `total`, int64, rising, each once. They are evenly spread, since
    data may be sorted by class."""
    return torch.linspace(0, total - 1, min(total, LOOKED_AT)).round().long()


def check_network(learner: Learner, network: nn.Module, *, seen: Sequence[int] = (), labels: bool = True) -> None:
    """Raises KnowledgeError unless a network's outputs on the learner's own samples are finite and plausible: on
    private samples by scale and, with `labels`, on held-out ones by `check_labels`."""
    x, held = learner.sample(_TRIED_ON), learner.held_out
    if not labels or held is None or len(held) < FEWEST:
        _check_outputs(learner, x, learner.logits(x, model=network))
        return
    tested, y = held.x, held.y
    if len(held) > LOOKED_AT:
        rows = some(len(held))
        tested, y = tested[rows], y[rows]
    theirs, known = _logits_on_both(learner, network, x, tested)
    _check_outputs(learner, x, theirs)
    check_labels(known, y, seen=seen, own=lambda: learner.logits(tested))


def _check_outputs(learner: Learner, x: Tensor, theirs: Tensor) -> None:
    if not math.isfinite(magnitude((theirs,))):
        raise KnowledgeError("the network made of these parameters gives outputs that are not finite")
    check_logits(theirs, lambda: learner.logits(x))


def _logits_on_both(learner: Learner, network: nn.Module, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """One forward pass for both sets where their shapes allow: for small networks a call costs more than the
    computation."""
    if one.shape[1:] != other.shape[1:] or one.dtype != other.dtype:
        return learner.logits(one, model=network), learner.logits(other, model=network)
    logits = learner.logits(torch.cat([one, other]), model=network)
    return logits[: len(one)], logits[len(one) :]


def largest(tensor: Tensor) -> float:
    """Largest absolute value; 0 for an empty tensor."""
    if not tensor.numel():
        return 0.0
    least, most = tensor.detach().aminmax()
    return max(-float(least), float(most))


def _held(named: Sequence[int], seen: Sequence[int]) -> tuple[Collection[int], int]:
    """The classes that a teacher should know, and the number of classes among which a guess would choose (at least
    two).

    With counts (`seen`): classes with at least half the samples of an average class, because a rare class may not be
    learned yet. Without: classes that the teacher `named` (times per class) at least half as often as a model of all
    classes would.
    """
    if any(seen):
        present = [c for c, n in enumerate(seen) if n]
        average = sum(seen) / len(present)
        return {c for c in present if seen[c] >= average / 2}, max(2, len(present))
    fewest = sum(named) / (2 * len(named))
    held = {c for c, times in enumerate(named) if times >= fewest}
    return held, max(2, len(held))


def _surprise(logits: Tensor, y: Tensor, classes: Sequence[int]) -> float:
    """Mean over these classes of their samples' mean negative log-likelihood, in nats."""
    loss = -logits.double().log_softmax(dim=1).gather(1, y[:, None]).squeeze(1)
    summed = torch.zeros(logits.shape[1], dtype=torch.float64).index_add(0, y, loss)
    return float((summed / torch.bincount(y, minlength=len(summed)))[list(classes)].mean())


def _loudest(feature: Tensor) -> float:
    """Largest root mean square of a channel of features (N, channels, ...)."""
    if not feature.numel():
        return 0.0
    channels = feature.float().flatten(2) if feature.dim() > 2 else feature.float().unsqueeze(2)
    return float(channels.square().mean(dim=(0, 2)).sqrt().max())
