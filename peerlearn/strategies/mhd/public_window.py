"""The public samples of the coming steps, and a network's outputs on them: queries, answers, and their check."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor

from peerlearn.errors import KnowledgeError
from peerlearn.knowledge import Json, Outputs
from peerlearn.learning.dataset import Unlabelled
from peerlearn.learning.learner import Learner
from peerlearn.learning.plausible import check_logits
from peerlearn.learning.sampler import Sampler
from peerlearn.learning.snapshot import Snapshot
from peerlearn.learning.state import check_finite, dtype_name
from peerlearn.strategies.mhd.heads import MultiHead

_BATCH = 512
"""Samples per forward pass: bounds the memory of the activations. Both sides use the same number, for the same bits."""
_MOST = 1 << 31
"""Upper bound for the numbers in a query, so that arithmetic with them stays small."""
EMBEDDING = "embedding"
"""Name of the embedding among the outputs."""


@dataclass(frozen=True, slots=True)
class Window:
    """`steps` batches of a public set from (epoch, position) on, in the order given by `seed` and the batch size
    `batch`. Peers with the same seed share one order. A provider can therefore compute what will be asked, and serve
    all peers at the same position by one answer."""

    fingerprint: str
    seed: int
    batch: int
    epoch: int
    position: int
    steps: int

    def order(self, public: Unlabelled) -> Sampler:
        """A sampler at the window's first batch. Raises KnowledgeError when an epoch has no such position."""
        order = Sampler(len(public), self.batch, seed=f"public/{self.seed}")
        if not 0 <= self.position < order.per_epoch:
            raise KnowledgeError(f"a pass over {public.name!r} has {order.per_epoch} batches, none at {self.position}")
        order.go_to(self.epoch, self.position)
        return order

    def reaches(self, now: "Window", public: Unlabelled) -> bool:
        """True if the first batch of `now` lies in this window."""
        per_epoch = self.order(public).per_epoch
        ahead = (now.epoch - self.epoch) * per_epoch + now.position - self.position
        return 0 <= ahead < self.steps

    def rows(self, public: Unlabelled) -> Tensor:
        """Row numbers of the public set that the window covers, int64 (k,), rising, each once."""
        order = self.order(public)
        if self.steps >= 2 * order.per_epoch:  # contains a whole pass from any start
            return torch.arange(len(public))
        batches = [order.next() for _ in range(self.steps)]
        return torch.isin(torch.arange(len(public)), torch.cat(batches)).nonzero().reshape(-1)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A consumer's query: logits of heads 0 to `heads` - 1 on a window, and with `embedding` the embedding."""

    window: Window
    heads: int
    embedding: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors wanted."""
        return (*([EMBEDDING] if self.embedding else []), *(f"logits/{head}" for head in range(self.heads)))

    def select(self) -> dict[str, Json]:
        """The query's `select`, for the wire."""
        return {**asdict(self.window), "heads": self.heads, "embedding": self.embedding}

    @classmethod
    def read(cls, select: Mapping[str, Json]) -> Self:
        """Read a query's `select`. Raises KnowledgeError when it is not of this kind."""
        numbers = {name: select.get(name) for name in ("seed", "batch", "epoch", "position", "steps", "heads")}
        least = {"batch": 1, "steps": 1, "heads": 1}
        for name, value in numbers.items():
            if type(value) is not int or not least.get(name, 0) <= value < _MOST:
                raise KnowledgeError(f"{name} must be a whole number of at least {least.get(name, 0)}")
        fingerprint, embedding = select.get("fingerprint"), select.get("embedding")
        if not isinstance(fingerprint, str) or not isinstance(embedding, bool) or len(select) != len(numbers) + 2:
            raise KnowledgeError(f"the question must name just a fingerprint, embedding, {', '.join(numbers)}")
        heads = numbers.pop("heads")
        return cls(Window(fingerprint, **numbers), heads, embedding)  # type: ignore[arg-type]  # all are int by now


class Shown:
    """The public sets on which a snapshot can answer."""

    def __init__(self, public_sets: Sequence[Unlabelled]) -> None:
        self._public_sets = {public.fingerprint: public for public in public_sets}

    def outputs(self, snapshot: Snapshot, wanted: Wanted) -> Outputs:
        """The answer to a query. Raises KnowledgeError for an unknown public set, or a position or heads that do not
        exist."""
        public = self._public_sets.get(wanted.window.fingerprint)
        if public is None:
            raise KnowledgeError("I hold no public set with that content")
        network = snapshot.module()
        if not isinstance(network, MultiHead) or wanted.heads > len(network.heads):
            have = len(network.heads) if isinstance(network, MultiHead) else 0
            raise KnowledgeError(f"my network has {have} heads, not {wanted.heads}")
        rows = wanted.window.rows(public)
        return Outputs(
            dataset=public.name,
            fingerprint=public.fingerprint,
            ids=public.ids[rows],
            tensors=table(network, public.x[rows], wanted),
            version=snapshot.version,
        )


def table(network: MultiHead, x: Tensor, wanted: Wanted, *, device: torch.device | None = None) -> dict[str, Tensor]:
    """Outputs of a network in eval mode for inputs (N, ...), a few hundred at a time: `embedding` (N, d) and `logits/k`
    (N, C) on the CPU. Provider and consumer get the same bits from the same parameters."""
    parts: dict[str, list[Tensor]] = {name: [] for name in wanted.names}
    with torch.no_grad():
        for some in x.split(_BATCH):
            views = network.views(some.to(device) if device is not None else some, heads=wanted.heads)
            said = {EMBEDDING: views.embedding} if wanted.embedding else {}
            said |= {f"logits/{head}": logits for head, logits in enumerate(views.logits)}
            for name, tensor in said.items():
                parts[name].append(tensor.cpu())
    return {name: torch.cat(tensors) for name, tensors in parts.items()}


def check_table(learner: Learner, network: MultiHead, outputs: Outputs, wanted: Wanted, public: Unlabelled) -> None:
    """Raises KnowledgeError unless the outputs are what was asked for in ids, names, shapes and dtypes, are finite, and
    have logits of plausible scale."""
    if outputs.fingerprint != public.fingerprint:
        raise KnowledgeError(f"outputs on another public set came than {public.name!r}, which was asked for")
    if not torch.equal(outputs.ids, public.ids[wanted.window.rows(public)]):
        raise KnowledgeError(f"outputs on {len(outputs.ids)} ids came that are not the ids asked for")
    if set(outputs.tensors) != set(wanted.names):
        raise KnowledgeError(
            f"outputs named {', '.join(sorted(outputs.tensors)) or 'nothing'} came, not {', '.join(wanted.names)}"
        )
    for name, tensor in outputs.tensors.items():
        want: tuple[Any, ...] = (len(outputs.ids), learner.classes)
        fits = tuple(tensor.shape) == want
        if name == EMBEDDING:
            want = (len(outputs.ids), "a width that is followed here")
            fits = tensor.dim() == 2 and len(tensor) == want[0] and network.follows(tensor.shape[1])
        if not fits or not tensor.is_floating_point():
            raise KnowledgeError(f"{name} must be floats {want}, not {dtype_name(tensor)} {tuple(tensor.shape)}")
        check_finite(name, tensor)
        if name != EMBEDDING:  # an embedding's scale does not matter, only its direction
            check_logits(tensor, lambda: learner.logits(public.x[wanted.window.order(public).next()]))
