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


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """What a network says of a batch: `embedding` (B, d) and, main head first, `logits` (B, C) of each head."""

    embedding: Tensor
    logits: tuple[Tensor, ...]


class MultiHead(nn.Module):
    """`trunk` gives an embedding (B, width); heads 0 (main) to `aux` are dense layers on it. It answers with the logits
    (B, classes) of the main head.

    `projections`: widths of other peers' embeddings that this network shall be able to follow; each is a learned
    linear map of its own embedding, used in training only. `seed` decides heads and projections; the trunk stays as it
    is. Raises LearnerError for numbers that make no network.
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
        """A copy of a network that ends in a dense layer named `last`: that layer becomes the main head, with its
        weights, and what comes before it the trunk. Raises LearnerError when there is no such layer."""
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
        """Of the embedding."""
        return int(self._weight(0).shape[1])

    @property
    def classes(self) -> int:
        return int(self._weight(0).shape[0])

    @property
    def aux(self) -> int:
        """Auxiliary heads."""
        return len(self.heads) - 1

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.heads[0](self.trunk(x))
        return logits

    def views(self, x: Tensor, *, heads: int | None = None) -> Views:
        """The embedding and the logits of the first `heads` heads (None: of all), in one pass."""
        embedding: Tensor = self.trunk(x)
        return Views(embedding, tuple(head(embedding) for head in self.heads[:heads]))

    def follows(self, width: int) -> bool:
        """Whether this network can compare its embedding with one of this width."""
        return width == self.width or str(width) in self.projections

    def projected(self, embedding: Tensor, width: int) -> Tensor:
        """Its own embedding (B, d) beside one of another width: (B, width); the embedding itself for its own width."""
        if width == self.width:
            return embedding
        seen: Tensor = self.projections[str(width)](embedding)
        return seen

    def by_head(self, head: int) -> nn.Module:
        """The same network, answering with the logits of another head. Raises LearnerError."""
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
    """Number of heads, and the width of the embedding, of the network with these layers; (0, 0) when it has none."""
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
