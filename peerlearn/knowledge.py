"""What peers ask one another and hand over. Frozen, detached, on the CPU: safe to give to another thread.

Two kinds of knowledge and no third: `Params` are addressed by tensor name, `Outputs` by sample id.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from torch import Tensor

from peerlearn.errors import RefusalReason
from peerlearn.types import Card

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True, slots=True, eq=False)
class Sparse:
    """Some values of a tensor of `shape`: `values[i]` stands at flat position `indices[i]`, rising."""

    shape: tuple[int, ...]
    indices: Tensor  # int64 (k,)
    values: Tensor  # (k,)

    @property
    def nbytes(self) -> int:
        return self.indices.nbytes + self.values.nbytes


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Params:
    """A subset of a named model state: the full model, one layer, or a share of the weights."""

    tensors: Mapping[str, Tensor | Sparse]
    architecture: str
    version: int
    member: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the values, without indices."""
        return sum((t.values if isinstance(t, Sparse) else t).nbytes for t in self.tensors.values())


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Outputs:
    """Values aligned to sample ids of a named data set: every tensor is (N, ...), `ids` int64 (N,).

    Names in use: logits, logits/k (head k), embedding, feature, label.
    """

    dataset: str
    fingerprint: str
    ids: Tensor
    tensors: Mapping[str, Tensor]
    version: int

    @property
    def nbytes(self) -> int:
        return self.ids.nbytes + sum(t.nbytes for t in self.tensors.values())


Knowledge = Params | Outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """How a consumer asks. `select` is read by the provider's strategy and by nobody else."""

    want: Literal["params", "outputs", "nothing"]
    select: Mapping[str, Json] = field(default_factory=dict)
    have: int | None = None
    """The version that the consumer holds of just this; "not modified" is then a possible answer."""
    have_session: str = ""
    at: int | None = None
    """Exactly this version (lockstep); None: the latest."""
    cast: str = ""
    """What may be lost on the way: see `casts.check_cast`. Nothing, unless it is said here."""


@dataclass(frozen=True, slots=True)
class Question:
    """What I want from a provider, and what I bring it. `after`: not before it has published this version or a later
    one; the asker waits for that, the provider never does. `complaint`: why I do not use what it has given, a line of
    text for its owner."""

    query: Query
    brings: Knowledge | None = None
    after: int | None = None
    complaint: str = ""


@dataclass(frozen=True, slots=True)
class NotModified:
    """You have it already: the version you named is the latest."""

    version: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """No, and why."""

    reason: RefusalReason
    detail: str


Answer = Knowledge | NotModified | Refusal


@dataclass(frozen=True, slots=True, eq=False)
class Received:
    """Knowledge from another peer, with the card it had when it was asked."""

    sender: Card
    knowledge: Knowledge
    asked: Query | None = None
    """The query that this answers; None when the sender brought it unasked."""
    received_bytes: int = 0
    """On the wire, for this answer."""
    seconds: float = 0.0
    """That the exchange took."""
