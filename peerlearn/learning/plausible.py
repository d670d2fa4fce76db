"""Whether knowledge that is sound by its shape can be meant: its scale, its labels, its statistics. Checked before use.

Every rule compares with what this peer has itself and knows no data set. What a rule lets pass is left to the gate.
Nothing here says that somebody lies: a model that diverged or is fed inputs of another scale looks the same.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from peerlearn.errors import KnowledgeError
from peerlearn.learning import evaluate
from peerlearn.learning.learner import Learner
from peerlearn.learning.state import magnitude

FACTOR = 100.0
"""So many times the size of one's own is absurd: ten times the most that training was seen to move the largest weight
(2.7 times) or logit (10 times) of small networks above the measures below."""

LARGEST_WEIGHT = 1.0
"""One's own largest weight counts as at least this: a model may begin at zero."""

LARGEST_LOGIT = 10.0
"""One's own largest logit counts as at least this: untrained networks say next to nothing."""

STATISTICS = 1e6
"""The factor for what is no parameter: a running variance goes by the square of inputs that may not be normalised, and
an untrained one is 1."""

LOOKED_AT = 256
"""Samples on which somebody's network is tried: enough to tell chance from knowledge, and a fraction of a second."""

FEWEST = 16
"""Samples below which being wrong proves nothing."""

SURPRISE = 2.0
"""Somebody is sure and wrong when the true labels surprise it so many times as much as one who knows nothing, and as
one's own model. An untrained or an early one is not sure of anything, so that neither is ever caught by this."""

_COMPANY = 3
_TRIED_ON = 64


def check_scale(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raises KnowledgeError when a tensor holds values beyond all measure of one's own state (`Learner.state`)."""
    if magnitude(tensors.values()) <= FACTOR * LARGEST_WEIGHT:  # whatever one's own are
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


def _largest_weight(own: Mapping[str, Tensor]) -> float:
    weights = [t for t in own.values() if isinstance(t, nn.Parameter) and t.is_floating_point()]
    return max([LARGEST_WEIGHT, *map(largest, weights)])


def check_logits(theirs: Tensor, own: Callable[[], Tensor]) -> None:
    """Raises KnowledgeError when their logits are beyond all measure of one's own on like samples; `own` is asked for
    when in doubt."""
    if (size := largest(theirs)) <= FACTOR * LARGEST_LOGIT:
        return
    mine = max(LARGEST_LOGIT, largest(own()))
    if size > FACTOR * mine:
        raise KnowledgeError(
            f"logits up to {size:.3g} came, where {mine:.3g} is the measure of this model: more than {FACTOR:g} times "
            f"as large"
        )


def check_labels(theirs: Tensor, y: Tensor, *, seen: Sequence[int] = (), own: Callable[[], Tensor]) -> None:
    """Raises KnowledgeError when a teacher is sure and yet right less often than by guessing about the classes that it
    and the samples both hold: as when labels were shuffled.

    `theirs`: its logits (N, C) on samples with labels y int64 (N,); `own`: one's own, asked for when in doubt; `seen`:
    its samples per class. Not shown: what it says itself tells what it holds, for a model never names a class that
    it has not seen; it then takes two such classes. A teacher of other classes than mine says nothing wrong.
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
    """Raises KnowledgeError when feature maps (N, channels, ...) have statistics beyond all measure of what the others
    bring: a channel far louder than any of theirs, or all of them far fainter; or nothing that tells one sample from
    another. The median of at least three others counts, so that one liar among them does not set the measure."""
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
    """At most LOOKED_AT rows of so many, evenly spread: data may lie class by class. int64, rising, each once."""
    return torch.linspace(0, total - 1, min(total, LOOKED_AT)).round().long()


def check_network(learner: Learner, network: nn.Module, *, seen: Sequence[int] = (), labels: bool = True) -> None:
    """Raises KnowledgeError unless a network says finite, sensible things on the learner's own samples: on private ones
    by scale, and (`labels`) on what is held out by `check_labels`."""
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
    """In one go where they fit together: most nets take longer to call than to compute."""
    if one.shape[1:] != other.shape[1:] or one.dtype != other.dtype:
        return learner.logits(one, model=network), learner.logits(other, model=network)
    logits = learner.logits(torch.cat([one, other]), model=network)
    return logits[: len(one)], logits[len(one) :]


def largest(tensor: Tensor) -> float:
    """Greatest absolute value; 0 without values."""
    if not tensor.numel():
        return 0.0
    least, most = tensor.detach().aminmax()
    return max(-float(least), float(most))


def _held(named: Sequence[int], seen: Sequence[int]) -> tuple[Collection[int], int]:
    """The classes that a teacher should know, and among how many it guesses (at least two).

    By its counts: those with at least half the samples of its average class. Else: what it has `named` (times per
    class) often enough that a model of all classes would.
    """
    if any(seen):
        present = [c for c, n in enumerate(seen) if n]
        average = sum(seen) / len(present)
        return {c for c in present if seen[c] >= average / 2}, max(2, len(present))
    fewest = sum(named) / (2 * len(named))
    held = {c for c, times in enumerate(named) if times >= fewest}
    return held, max(2, len(held))


def _surprise(logits: Tensor, y: Tensor, classes: Sequence[int]) -> float:
    """Mean over these classes of the mean negative log-likelihood of their samples."""
    loss = -logits.double().log_softmax(dim=1).gather(1, y[:, None]).squeeze(1)
    summed = torch.zeros(logits.shape[1], dtype=torch.float64).index_add(0, y, loss)
    return float((summed / torch.bincount(y, minlength=len(summed)))[list(classes)].mean())


def _loudest(feature: Tensor) -> float:
    """The largest root mean square of a channel of (N, channels, ...)."""
    if not feature.numel():
        return 0.0
    channels = feature.float().flatten(2) if feature.dim() > 2 else feature.float().unsqueeze(2)
    return float(channels.square().mean(dim=(0, 2)).sqrt().max())
