"""Immutable copies of a learner's model between two steps. Providers answer from these only."""

import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from peerlearn.learning.state import copied, frozen


class Snapshot:
    """A model's state by name on the CPU, a rising version, and the strategy's published value (`extras`).

    Any thread may read it while the learner trains on. Treat the tensors as read-only: consumers get them without
    another copy.
    """

    def __init__(
        self, version: int, live: Mapping[str, Tensor], *, template: nn.Module, architecture: str, extras: Any = None
    ) -> None:
        self.version = version
        self.state: Mapping[str, Tensor] = MappingProxyType(copied(live))
        self.architecture = architecture
        self.extras = extras
        self._template = template
        self._module: nn.Module | None = None
        self._building = threading.Lock()

    def module(self) -> nn.Module:
        """The model with this state on the CPU, in eval mode, without gradients; built at the first call."""
        with self._building:
            if self._module is None:
                self._module = frozen(self._template, self.state, torch.device("cpu"))
            return self._module

    def __repr__(self) -> str:
        return f"<Snapshot version {self.version} of {self.architecture[:8]}, {len(self.state)} tensors>"
