"""Measures that go with one method only, beside those of the exam. The one place here that knows methods by name."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from peerlearn.experiments.run.cost import cost
from peerlearn.experiments.run.evaluation import Evaluator
from peerlearn.learning import evaluate
from peerlearn.learning.learner import Learner
from peerlearn.strategies.base import Strategy

if TYPE_CHECKING:
    from peerlearn.strategies.mhd.strategy import MHD

Extra = Callable[[Strategy, Learner, Evaluator], Mapping[str, float]]
"""Called on the learner's thread, between two spans."""


def extras(strategy: Strategy, learner: Learner, exam: Evaluator) -> Mapping[str, float]:
    """What goes with this strategy; nothing for most."""
    extra = _EXTRAS.get(strategy.name)
    return extra(strategy, learner, exam) if extra is not None else {}


def _heads(strategy: Strategy, learner: Learner, exam: Evaluator) -> dict[str, float]:
    """Private (weighted by the private class frequencies: beta_priv) and shared (beta_sh) accuracy of every head, and
    the best of the auxiliary ones."""
    mhd: MHD = strategy  # type: ignore[assignment]  # by name
    heads = 1 + (getattr(learner.model, "aux", 0) if mhd.heads is None else mhd.heads)
    found: dict[str, float] = {}
    for head in range(heads):
        scores = _scores(mhd.predict(learner, exam.test.x, head), exam)
        found |= {f"{name}_head_{head}": value for name, value in scores.items()}
    auxiliary = [found[f"shared_head_{head}"] for head in range(1, heads)]
    return found | {"shared_best_aux": max(auxiliary, default=found["shared_head_0"])}


def _scores(probabilities: Tensor, exam: Evaluator) -> dict[str, float]:
    confusion = exam.confusion(probabilities)
    recall = evaluate.recall(confusion).nan_to_num(0.0)
    scores = evaluate.scores(confusion, exam.own)
    weighted = float((recall * exam.weights).sum() / exam.weights.sum())
    return {"private": scores.private, "private_weighted": weighted, "shared": scores.shared}


def _small_network(strategy: Strategy, learner: Learner, exam: Evaluator) -> dict[str, float]:
    """What the small network does on its own, beside the stacked one that users get, and what it costs to run."""
    price = cost(learner.model, learner.sample(8))
    confusion = exam.confusion(learner.predict(exam.test.x)) if learner.classes == exam.test.classes else None
    small = evaluate.accuracy(confusion) if confusion is not None else float("nan")
    return {"shared_small": small, "parameters": float(price.parameters), "flops": float(price.flops)}


_EXTRAS: Mapping[str, Extra] = {"mhd": _heads, "fedgkt": _small_network}
