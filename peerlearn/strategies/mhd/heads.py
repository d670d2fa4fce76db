"""Networks with a main head and auxiliary heads on one embedding, over any trunk (multi-headed distillation)."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor, nn

from peerlearn.errors import LearnerError
from peerlearn.learning.models import initialise
from peerlearn.learning.sampler import derived
from peerlearn.types import Layer

_HEADS = "heads"
"""Name of the heads' module, as it appears on cards."""


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """A network's outputs for a batch: `embedding` (B, d), and `logits` (B, C) of each head, main head first."""

    embedding: Tensor
    logits: tuple[Tensor, ...]


class MultiHead(nn.Module):
    """`trunk` computes an embedding (B, width); heads 0 (main) to `aux` are dense layers on it. The forward pass
    returns the logits (B, classes) of the main head.

    `projections`: widths of other peers' embeddings with which this network can compare its own, each through a learned
    linear map that is used in training only. `seed` decides the weights of heads and projections; the trunk keeps its
    weights. Raises LearnerError for sizes that cannot work.
    """

    def __init__(
        self,
        trunk: nn.Module,
        width: int,
        *,
        classes: int = 10,
        aux: int = 1,
        projections: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check(width, aux, projections)
        self.trunk = trunk
        self.heads = nn.ModuleList(nn.Linear(width, classes, device="meta") for _ in range(aux + 1))
        self.projections = nn.ModuleDict(
            {str(other): nn.Linear(width, other, bias=False, device="meta") for other in projections}
        )
        initialise(self.heads, derived("heads", seed))
        initialise(self.projections, derived("projections", seed))

    @classmethod
    def over(
        cls, model: nn.Module, *, aux: int = 1, projections: Sequence[int] = (), seed: int = 0, last: str = "fc"
    ) -> Self:
        """A copy of a network whose last dense layer is named `last`. That layer, with its weights, becomes the main
        head, and the layers before it become the trunk. Raises LearnerError when there is no such layer."""
        trunk = copy.deepcopy(model)
        found = dict(trunk.named_modules()).get(last)
        if not isinstance(found, nn.Linear):
            raise LearnerError(
                f"the network has no dense layer {last!r} to put heads in the place of; name it by last="
            )
        parent, _, child = last.rpartition(".")
        setattr(trunk.get_submodule(parent), child, nn.Identity())
        made = cls(trunk, found.in_features, classes=found.out_features, aux=aux, projections=projections, seed=seed)
        made.heads[0] = found
        return made

    @property
    def width(self) -> int:
        """Width of the embedding."""
        return int(self._weight(0).shape[1])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self._weight(0).shape[0])

    @property
    def aux(self) -> int:
        """Number of auxiliary heads."""
        return len(self.heads) - 1

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.heads[0](self.trunk(x))
        return logits

    def views(self, x: Tensor, *, heads: int | None = None) -> Views:
        """Embedding and logits of the first `heads` heads (None: all), in one pass."""
        embedding: Tensor = self.trunk(x)
        return Views(embedding, tuple(head(embedding) for head in self.heads[:heads]))

    def follows(self, width: int) -> bool:
        """True if this network can compare its embedding with one of this width."""
        return width == self.width or str(width) in self.projections

    def projected(self, embedding: Tensor, width: int) -> Tensor:
        """The embedding (B, d) mapped to another width, (B, width); unchanged for its own width."""
        if width == self.width:
            return embedding
        seen: Tensor = self.projections[str(width)](embedding)
        return seen

    def by_head(self, head: int) -> nn.Module:
        """The same network, returning the logits of another head. Raises LearnerError when there is no such head."""
        if not 0 <= head < len(self.heads):
            raise LearnerError(f"the network has heads 0 to {self.aux}, no head {head}")
        return _OneHead(self, head)

    def _weight(self, head: int) -> Tensor:
        weight = self.heads[head].weight
        assert isinstance(weight, Tensor)
        return weight


class _OneHead(nn.Module):
    def __init__(self, network: MultiHead, head: int) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network.heads[self.head](self.network.trunk(x))
        return logits


def heads_on_card(layers: Sequence[Layer]) -> tuple[int, int]:
    """Number of heads and width of the embedding of a network with these layers; (0, 0) when it has no heads."""
    shapes = {layer.name: layer.shape for layer in layers}
    count = 0
    while len(shapes.get(f"{_HEADS}.{count}", ())) == 2:
        count += 1
    return count, shapes[f"{_HEADS}.0"][1] if count else 0


def _check(width: int, aux: int, projections: Sequence[int]) -> None:
    if width < 1:
        raise LearnerError(f"an embedding has a width of at least 1, not {width}")
    if aux < 0:
        raise LearnerError(f"the number of auxiliary heads cannot be negative: {aux}")
    if len(set(projections)) < len(projections) or any(other < 1 or other == width for other in projections):
        raise LearnerError(
            f"projections are different widths of others' embeddings, none of them its own width {width}: "
            f"{list(projections)}"
        )
