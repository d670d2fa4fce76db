"""The transfer maps of one phase, each with its own optimizer: one map per provider averaged, a joint map, or a
sequence."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from peerlearn.strategies.pairwise.transfer_maps import LinearLayer, MapSettings, TransferMap, mean_layer

Combine = Literal["mean", "joint", "sequence"]
"""How the maps of several providers are combined, see `Pipelines`."""


class Pipelines:
    """`mean`: W* = 1/k sum_j M_j(W_j, W_own). `joint`: W* = M(W_1..W_k, W_own). `sequence`: W^j = M_j(W_j, W^(j-1)).

    Providers are given once, in id order. Adam's state starts fresh with the maps; `lr` is its learning rate.
    """

    def __init__(
        self, providers: Sequence[str], own: LinearLayer, *, combine: Combine, settings: MapSettings, lr: float
    ) -> None:
        self._combine = combine
        keys = ["+".join(providers)] if combine == "joint" else list(providers)
        per_map = len(providers) if combine == "joint" else 1
        self.maps = {key: TransferMap(own, per_map, settings) for key in keys}
        self._optimizers = {key: torch.optim.Adam(map_.parameters(), lr=lr) for key, map_ in self.maps.items()}
        self._started = [parameter.detach().clone() for parameter in self._parameters()]

    def layer(self, theirs: Sequence[LinearLayer], own: LinearLayer) -> LinearLayer:
        """The new own layer, differentiable with respect to the maps."""
        if self._combine == "joint":
            (joint,) = self.maps.values()
            made: LinearLayer = joint(theirs, own)
            return made
        if self._combine == "mean":
            each = [map_([layer], own) for map_, layer in zip(self.maps.values(), theirs, strict=True)]
            return mean_layer(each)
        for map_, layer in zip(self.maps.values(), theirs, strict=True):
            own = map_([layer], own)
        return own

    def step(self, loss: Tensor) -> None:
        """Make one optimizer step with every map."""
        for optimizer in self._optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in self._optimizers.values():
            optimizer.step()

    def moved(self) -> float:
        """Euclidean distance of all maps from their start."""
        pairs = zip(self._parameters(), self._started, strict=True)
        return math.sqrt(sum(float((p.detach() - s).double().square().sum()) for p, s in pairs))

    def state_dict(self) -> dict[str, Any]:
        return {
            key: {
                "map": {name: p.detach().clone() for name, p in map_.named_parameters()},
                "adam": self._optimizers[key].state_dict(),
            }
            for key, map_ in self.maps.items()
        }

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Continue with the saved maps, where their providers and shapes are still the same."""
        for key, map_ in self.maps.items():
            own = dict(map_.named_parameters())
            kept = saved.get(key, {"map": {}})["map"]
            if set(kept) == set(own) and all(kept[name].shape == p.shape for name, p in own.items()):
                map_.load_state_dict(kept)
                self._optimizers[key].load_state_dict(saved[key]["adam"])
        self._started = [parameter.detach().clone() for parameter in self._parameters()]

    def _parameters(self) -> list[Tensor]:
        return [parameter for map_ in self.maps.values() for parameter in map_.parameters()]
