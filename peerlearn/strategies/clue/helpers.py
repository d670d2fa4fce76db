"""Helper models: copies of the peer's own model with a provider's significant parameters in them, frozen.

CLUE (Daga et al.), section 5.2.2. Equation (2): W^h_j = W^s_j where significant, else W^t_j as it was when the helper
was made. The peer answers requests by the mean of the probabilities of its own model and all helpers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from peerlearn.errors import KnowledgeError
from peerlearn.knowledge import Params, Received, Sparse
from peerlearn.learning import state
from peerlearn.learning.learner import Learner
from peerlearn.strategies.clue.significance import amount, weights_of
from peerlearn.strategies.shared import teacher_checks

Operator = Callable[[Tensor], Tensor]
"""Takes the logits of several models (M, B, C), the own one first; returns probabilities (B, C)."""


def mean_probability(logits: Tensor) -> Tensor:
    """The paper's operator: the mean of the models' probabilities."""
    return logits.softmax(dim=2).double().mean(dim=0).to(logits.dtype)


def mean_logit(logits: Tensor) -> Tensor:
    """The softmax of the models' mean logits."""
    return logits.double().mean(dim=0).to(logits.dtype).softmax(dim=1)


def most_confident(logits: Tensor) -> Tensor:
    """For each request, the probabilities of the model with the largest maximum; the first one among equals."""
    chances = logits.softmax(dim=2)
    chosen = chances.max(dim=2).values.argmax(dim=0)  # (B,)
    return chances[chosen, torch.arange(logits.shape[1])]


OPERATORS: Mapping[str, Operator] = {
    "mean": mean_probability,
    "mean-logit": mean_logit,
    "confident": most_confident,
}
"""Operators by name, for configurations."""


@dataclass(frozen=True, slots=True, eq=False)
class Helper:
    """A helper model. `classes`: those it was requested for; `born`: number of request batches served before it was
    made; `tensors`: its whole state on the CPU."""

    sender: str
    version: int
    classes: tuple[int, ...]
    born: int
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Came:
    """One provider's answer: to which `call`, and for which classes."""

    call: int
    classes: tuple[int, ...]
    knowledge: Params

    def state_dict(self) -> dict[str, Any]:
        """The answer as plain values, for disk."""
        tensors = {
            name: {"shape": list(t.shape), "indices": t.indices, "values": t.values} if isinstance(t, Sparse) else t
            for name, t in self.knowledge.tensors.items()
        }
        k = self.knowledge
        about = {"architecture": k.architecture, "version": k.version, "member": k.member, "tensors": tensors}
        return {"call": self.call, "classes": list(self.classes), **about}

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> Self:
        """The answer made of `state_dict`'s values."""
        tensors = {
            name: t if isinstance(t, Tensor) else Sparse(tuple(t["shape"]), t["indices"], t["values"])
            for name, t in saved["tensors"].items()
        }
        about = {key: saved[key] for key in ("architecture", "version", "member")}
        params = Params(tensors=tensors, **about)
        return cls(saved["call"], tuple(saved["classes"]), params)


def came_of(received: Received, call: int) -> Came:
    """The answer with the classes that were requested. Raises KnowledgeError for knowledge that does not answer this
    peer's own query for parameters of certain classes."""
    asked = received.asked.select.get("classes") if received.asked is not None else None
    if not isinstance(received.knowledge, Params) or not isinstance(asked, list):
        raise KnowledgeError(f"{received.sender.name} gave what no helper can be made of: nobody asked for it")
    return Came(call, tuple(c for c in asked if isinstance(c, int)), received.knowledge)


class HelperPool:
    """The helpers alive, oldest first. They are never trained."""

    def __init__(self) -> None:
        self._helpers: list[Helper] = []
        self._models: dict[Helper, nn.Module] = {}

    def __len__(self) -> int:
        return len(self._helpers)

    def __iter__(self) -> Iterator[Helper]:
        return iter(tuple(self._helpers))

    def add(self, helper: Helper, *, most: int) -> None:
        """Add a helper; the oldest leave when there are more than `most`."""
        self._helpers.append(helper)
        self.keep_if(lambda each: each in self._helpers[-most:])

    def keep_if(self, stays: Callable[[Helper], bool]) -> None:
        """Discard all helpers for which `stays` is false."""
        self._helpers = [helper for helper in self._helpers if stays(helper)]
        self._models = {helper: model for helper, model in self._models.items() if helper in self._helpers}

    def logits(self, learner: Learner, x: Tensor) -> list[Tensor]:
        """Logits of each helper, (B, C), for inputs (B, ...)."""
        for helper in self._helpers:
            if helper not in self._models:
                self._models[helper] = learner.build(helper.tensors)
        return [learner.logits(x, model=self._models[helper]) for helper in self._helpers]

    def state_dict(self) -> list[dict[str, Any]]:
        return [
            {
                "sender": h.sender,
                "version": h.version,
                "classes": list(h.classes),
                "born": h.born,
                "tensors": dict(h.tensors),
            }
            for h in self._helpers
        ]

    def load_state_dict(self, saved: Sequence[Mapping[str, Any]]) -> None:
        self._models = {}
        self._helpers = [
            Helper(h["sender"], h["version"], tuple(h["classes"]), h["born"], dict(h["tensors"])) for h in saved
        ]


def check(learner: Learner, knowledge: Params, top_percent: float) -> None:
    """Raises KnowledgeError unless the knowledge is what was asked for: the top Z % of every parameter of the learner's
    architecture, and all other tensors whole. They must be finite and of plausible scale, and so must the logits of the
    helper made of them."""
    if knowledge.architecture != learner.architecture:
        raise KnowledgeError(
            f"parameters of architecture {knowledge.architecture[:12]!r}, this model is {learner.architecture[:12]!r}"
        )
    weights = weights_of(learner.model)
    for name, weight in weights.items():
        _check_sparse(name, knowledge.tensors.get(name), weight, amount(top_percent, weight.numel()))
    others = {name: t for name, t in knowledge.tensors.items() if name not in weights}
    own = {name: t for name, t in learner.state.items() if name not in weights}
    state.check_fit(others, own, whole=top_percent > 0)
    whole = filled(learner.state, knowledge.tensors)
    mixed = Params(tensors=whole, architecture=knowledge.architecture, version=knowledge.version)
    teacher_checks.check_teacher(learner, mixed, labels=False)  # a mixture need not be good at anything


def filled(own: Mapping[str, Tensor], came: Mapping[str, Tensor | Sparse], *, zero: bool = False) -> dict[str, Tensor]:
    """Equation (2): a whole state made of the received values. Other places hold the learner's own values, or zeros
    with `zero`. On the CPU; shares no memory with `own`."""
    whole = {}
    for name, mine in state.copied(own).items():
        theirs = came.get(name, mine)
        if isinstance(theirs, Sparse):
            flat = torch.zeros_like(mine).reshape(-1) if zero else mine.reshape(-1)
            flat[theirs.indices] = theirs.values
            theirs = flat.reshape(mine.shape)
        whole[name] = theirs
    return whole


def merged(
    own: Mapping[str, Tensor], came: Sequence[Mapping[str, Tensor | Sparse]], *, average: bool
) -> dict[str, Tensor]:
    """The controls of the paper's figure 2. Each own value for which values were received becomes their mean, or with
    `average` the mean of them and the own one. Counters are left out. Summed in float64 in the order given."""
    made = {}
    for name, mine in state.copied(own).items():
        if not mine.is_floating_point():
            continue
        flat = mine.reshape(-1)
        total = flat.double() if average else torch.zeros(len(flat), dtype=torch.float64)
        votes = torch.full((len(flat),), float(average), dtype=torch.float64)
        for tensors in came:
            _vote(tensors.get(name), total, votes)
        given = votes > float(average)
        made[name] = torch.where(given, (total / votes.clamp(min=1)).to(mine.dtype), flat).reshape(mine.shape)
    return made


def _vote(theirs: Tensor | Sparse | None, total: Tensor, votes: Tensor) -> None:
    if isinstance(theirs, Sparse):
        total[theirs.indices] += theirs.values.double()
        votes[theirs.indices] += 1
    elif theirs is not None:
        total += theirs.reshape(-1).double()
        votes += 1


def _check_sparse(name: str, came: Tensor | Sparse | None, own: Tensor, k: int) -> None:
    """Checks everything but that the values are finite, which is checked on the whole state."""
    if not isinstance(came, Sparse):
        how = "is missing" if came is None else "came whole"
        raise KnowledgeError(f"tensor {name!r} {how} where {k} of its {own.numel()} values were asked for")
    if tuple(came.shape) != tuple(own.shape):
        raise KnowledgeError(f"tensor {name!r} has shape {tuple(came.shape)}, this model's is {tuple(own.shape)}")
    if came.values.dtype != own.dtype:
        raise KnowledgeError(
            f"tensor {name!r} is {state.dtype_name(came.values)}, this model's is {state.dtype_name(own)}"
        )
    if tuple(came.indices.shape) != (k,) or tuple(came.values.shape) != (k,) or came.indices.dtype != torch.int64:
        raise KnowledgeError(f"tensor {name!r}: {came.values.numel()} values came, {k} were asked for")
    inside = k == 0 or (int(came.indices[0]) >= 0 and int(came.indices[-1]) < own.numel())
    if not inside or not bool((came.indices[1:] > came.indices[:-1]).all()):
        raise KnowledgeError(f"tensor {name!r}: positions must rise and lie within its shape")
