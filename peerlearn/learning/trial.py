"""A reusable network for a short look at received tensors."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from peerlearn.learning import state

MOST_BYTES = 16 * 2**20
"""Largest network that is kept for reuse. Up to this size, building its modules costs more than copying its tensors."""


class Trial:
    """Networks of one architecture, in eval mode without gradients, on one device."""

    def __init__(self, template: nn.Module, device: torch.device) -> None:
        self._template = template
        self._device = device
        self._kept: nn.Module | None = None

    def of(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        """A network with these tensors. It is valid until the next call, which may fill the same network again."""
        if self._kept is None:
            network = state.frozen(self._template, tensors, self._device)
            if sum(tensor.nbytes for tensor in tensors.values()) <= MOST_BYTES:
                self._kept = network
            return network
        state.refill(self._kept, self._template, tensors)
        return self._kept
