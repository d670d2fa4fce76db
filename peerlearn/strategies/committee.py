"""The last few states of one's own model, which predict together: their errors differ, and the mean has fewer."""

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from peerlearn.errors import ConfigError
from peerlearn.learning.learner import Learner


class Committee:
    """At most `size` states of past moments. They and the model as it is now predict the normalised geometric mean of
    their probabilities: the mean of their log-probabilities, which weighs a confident "no" as much as a "yes".

    Size 0: the model predicts alone. Memory and prediction cost grow with the size.
    """

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ConfigError(f"auto: committee must be at least 0, not {size}")
        self._states: deque[tuple[int, dict[str, Tensor]]] = deque(maxlen=size)
        self._networks: dict[int, nn.Module] = {}

    def __len__(self) -> int:
        return len(self._states)

    def join(self, learner: Learner) -> None:
        """The learner's state as it is now, from now on a member."""
        if self._states.maxlen:
            state = {name: tensor.detach().cpu().clone() for name, tensor in learner.state.items()}
            self._states.append((learner.steps, state))

    def predict(self, learner: Learner, x: Tensor) -> Tensor:
        """Probabilities (B, C) for inputs (B, ...)."""
        kept = {id(state) for _, state in self._states}
        self._networks = {key: network for key, network in self._networks.items() if key in kept}
        logs = [learner.logits(x, model=self._network(learner, state)).log_softmax(dim=1) for _, state in self._states]
        if not self._is_current(learner):
            logs.append(learner.logits(x).log_softmax(dim=1))
        return torch.stack(logs).mean(dim=0).softmax(dim=1)

    def state_dict(self) -> dict[str, Any]:
        return {"states": [{"steps": steps, "tensors": state} for steps, state in self._states]}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self._states.clear()
        self._states.extend((int(entry["steps"]), dict(entry["tensors"])) for entry in saved["states"])
        self._networks.clear()

    def _network(self, learner: Learner, state: dict[str, Tensor]) -> nn.Module:
        key = id(state)
        if key not in self._networks:
            self._networks[key] = learner.build(state)
        return self._networks[key]

    def _is_current(self, learner: Learner) -> bool:
        """Whether the newest member is the model as it is now, which then has no second voice."""
        if not self._states:
            return False
        steps, state = self._states[-1]
        return steps == learner.steps and all(torch.equal(state[n], t.cpu()) for n, t in learner.state.items())
