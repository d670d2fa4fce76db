"""Questions and answers between peers. All values are frozen, detached from autograd and on the CPU, so that other
threads may read them.

There are two kinds of knowledge: `Params` are addressed by tensor name, `Outputs` by sample id.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from torch import Tensor

from peerlearn.errors import RefusalReason
from peerlearn.types import Card

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""The values that a query may hold."""


@dataclass(frozen=True, slots=True, eq=False)
class Sparse:
    """Some values of a tensor of `shape`: `values[i]` belongs at flat position `indices[i]`. Indices rise."""

    shape: tuple[int, ...]
    indices: Tensor  # int64 (k,)
    values: Tensor  # (k,)

    @property
    def nbytes(self) -> int:
        """Bytes of indices and values."""
        return self.indices.nbytes + self.values.nbytes


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Params:
    """A subset of a named model state: the full model, one layer, or a share of the weights. `architecture`: signature
    of the sender's whole state; `version`: of the sender's snapshot; `member`: place in an ensemble."""

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
    """Values for samples of a named data set: `ids` is int64 (N,), and every tensor is (N, ...).

    Names in use: logits, logits/k (of head k), embedding, feature, label. `fingerprint`: sha256 over the contents of
    the data set.
    """

    dataset: str
    fingerprint: str
    ids: Tensor
    tensors: Mapping[str, Tensor]
    version: int

    @property
    def nbytes(self) -> int:
        """Bytes of ids and values."""
        return self.ids.nbytes + sum(t.nbytes for t in self.tensors.values())


Knowledge = Params | Outputs
"""The two kinds of knowledge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What a consumer asks for. Only the provider's strategy reads `select`."""

    want: Literal["params", "outputs", "nothing"]
    select: Mapping[str, Json] = field(default_factory=dict)
    have: int | None = None
    """Version of this same knowledge that the consumer holds. The provider may then answer `NotModified`."""
    have_session: str = ""
    """Session of the provider that published version `have`; versions of different sessions cannot be compared."""
    at: int | None = None
    """The exact version wanted, in lockstep; None: the latest."""
    cast: str = ""
    """Lossy cast of the answer, see `casts.check_cast`; empty: lossless."""


@dataclass(frozen=True, slots=True)
class Question:
    """A query to a provider, and knowledge that the consumer brings it. `after`: the version that the provider must
    have published first; the consumer waits for it, the provider never does."""

    query: Query
    brings: Knowledge | None = None
    after: int | None = None


@dataclass(frozen=True, slots=True)
class NotModified:
    """The provider's latest version is the one that the query says the consumer has."""

    version: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A provider's answer when it gives no knowledge. `detail`: the reason in one sentence, for people."""

    reason: RefusalReason
    detail: str


Answer = Knowledge | NotModified | Refusal
"""What a provider may answer."""


@dataclass(frozen=True, slots=True, eq=False)
class Received:
    """Knowledge from another peer, with that peer's card of the moment when it was asked."""

    sender: Card
    knowledge: Knowledge
    asked: Query | None = None
    """The query that this answers; None when the sender brought it with a question of its own."""
    received_bytes: int = 0
    """Bytes on the wire for this answer."""
    seconds: float = 0.0
    """Duration of the exchange."""
