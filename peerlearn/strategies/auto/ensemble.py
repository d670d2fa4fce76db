"""The last few states of one's own model, which predict together: their errors differ, and the mean has fewer."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peerlearn.learning.learner import Learner


@dataclass(slots=True, eq=False)
class Member:
    """The model after so many steps: all tensors of its state, on the CPU. `network`: made of them when first asked."""

    steps: int
    tensors: dict[str, Tensor]
    network: nn.Module | None = None

    def logits(self, learner: Learner, x: Tensor) -> Tensor:
        """(B, C) for inputs (B, ...)."""
        if self.network is None:
            self.network = learner.build(self.tensors)
        return learner.logits(x, model=self.network)


class Ensemble:
    """At most `size` states of past moments. They and the model as it is now predict the normalised geometric mean of
    their probabilities: the mean of their log-probabilities, which weighs a confident "no" as much as a "yes".

    Size 0: the model predicts alone. Memory and prediction cost grow with the size.
    """

    def __init__(self, size: int) -> None:
        self._members: deque[Member] = deque(maxlen=size)

    def __len__(self) -> int:
        return len(self._members)

    def join(self, member: Member) -> None:
        """From now on one of us; the oldest leaves when there is no more room."""
        self._members.append(member)

    def dismiss(self) -> None:
        """The model predicts alone until others join."""
        self._members.clear()

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        """Probabilities (B, C) for inputs (B, ...)."""
        logs = [member.logits(learner, x).log_softmax(dim=1) for member in self._members]
        if not self._is_current(learner):
            logs.append(learner.logits(x).log_softmax(dim=1))
        return torch.stack(logs).mean(dim=0).softmax(dim=1)

    def state_dict(self) -> dict[str, Any]:
        return {"states": [{"steps": member.steps, "tensors": member.tensors} for member in self._members]}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self._members.clear()
        self._members.extend(Member(int(entry["steps"]), dict(entry["tensors"])) for entry in saved["states"])

    def _is_current(self, learner: Learner) -> bool:
        """Whether the newest member is the model as it is now, which then has no second voice."""
        if not self._members:
            return False
        newest = self._members[-1]
        return newest.steps == learner.steps and all(
            torch.equal(newest.tensors[name], tensor.cpu()) for name, tensor in learner.state.items()
        )


def as_it_is(learner: Learner) -> Member:
    """A copy of the learner's model of this moment."""
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in learner.state.items()}
    return Member(learner.steps, tensors)
