"""An ensemble of the last few states of a peer's own model. Their errors differ, so their mean makes fewer."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peerlearn.learning.learner import Learner


@dataclass(slots=True, eq=False)
class Member:
    """A state of the model. `steps`: optimizer steps before it; `tensors`: the whole state on the CPU; `network`: built
    at the first prediction."""

    steps: int
    tensors: dict[str, Tensor]
    network: nn.Module | None = None

    def logits(self, learner: Learner, x: Tensor) -> Tensor:
        """Logits (B, C) on the CPU for inputs (B, ...)."""
        if self.network is None:
            self.network = learner.build(self.tensors)
        return learner.logits(x, model=self.network)


class Ensemble:
    """At most `size` past states. They and the present model predict together: the normalised geometric mean of their
    probabilities, that is the mean of their log-probabilities, which weighs a confident "no" as much as a "yes".

    With size 0 the model predicts alone. Memory and prediction time grow with the size.
    """

    def __init__(self, size: int) -> None:
        self._members: deque[Member] = deque(maxlen=size)

    def __len__(self) -> int:
        return len(self._members)

    def join(self, member: Member) -> None:
        """Add a member; the oldest leaves when there are more than `size`."""
        self._members.append(member)

    def dismiss(self) -> None:
        """Remove all members: the model predicts alone."""
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
        """True if the newest member equals the present model, which must then not count twice."""
        if not self._members:
            return False
        newest = self._members[-1]
        return newest.steps == learner.steps and all(
            torch.equal(newest.tensors[name], tensor.cpu()) for name, tensor in learner.state.items()
        )


def as_it_is(learner: Learner) -> Member:
    """A member made of the learner's present model."""
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in learner.state.items()}
    return Member(learner.steps, tensors)
