"""Small value types that all packages share. Imports neither torch nor grpc."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NewType, Self

from peerlearn.errors import ConfigError

PeerId = NewType("PeerId", str)
"""Fingerprint of a peer's signing key: 32 lower-case hex digits."""

PROTOCOL = (1, 0)
"""Major and minor version of the wire protocol; `wire.protocol` lists what each version brought."""


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Host and TCP port, written HOST:PORT, or [HOST]:PORT for IPv6."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, *, default_port: int | None = None) -> Self:
        """Read `host:port`, `[v6]:port`, or `host` when a default port is given. Raises ConfigError."""
        match = re.fullmatch(
            r"(?:\[(?P<v6>[0-9a-fA-F:.%\w]+)\]|(?P<host>[^\[\]:\s]+))(?::(?P<port>\d{1,5}))?", text.strip()
        )
        port = (match["port"] if match else None) or default_port
        if match is None or port is None or not 0 <= int(port) <= 65535:
            raise ConfigError(f"{text!r} is not an address: write HOST:PORT, for example 192.168.1.20:7411")
        return cls(match["v6"] or match["host"], int(port))


@dataclass(frozen=True, slots=True)
class Span:
    """Length of training: a number of optimizer steps, or of passes over the private set. Raises ConfigError when
    negative."""

    amount: int
    unit: Literal["steps", "epochs"]

    def __post_init__(self) -> None:
        if self.amount < 0:
            raise ConfigError(f"a span cannot be negative: {self.amount} {self.unit}")

    def __str__(self) -> str:
        return f"{self.amount} {self.unit if self.amount != 1 else self.unit[:-1]}"


def steps(amount: int) -> Span:
    """A span of `amount` optimizer steps. Raises ConfigError when negative."""
    return Span(amount, "steps")


def epochs(amount: int) -> Span:
    """A span of `amount` passes over the private set. Raises ConfigError when negative."""
    return Span(amount, "epochs")


class Exposure(StrEnum):
    """The kinds of knowledge that a peer may show. A peer's set is an allow-list: all other kinds are refused. Raw
    inputs have no name here, so they cannot be allowed."""

    HISTOGRAM = "card.histogram"
    PARAMS_FULL = "params.full"
    PARAMS_LAYERS = "params.layers"
    PARAMS_SIGNIFICANT = "params.significant"
    PRIVATE_FEATURES = "outputs.private.feature"
    PRIVATE_LOGITS = "outputs.private.logits"
    PRIVATE_LABELS = "outputs.private.label"
    PUBLIC_OUTPUTS = "outputs.public"


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer as its peer's card shows it: `name` in the model, `kind` of module, `shape` of its weight."""

    name: str
    kind: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PublicSet:
    """Card entry of an unlabelled data set that several peers hold. `fingerprint`: sha256 over its contents; `length`:
    number of samples."""

    name: str
    fingerprint: str
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """The small public record of a peer. Every peer signs its own."""

    id: PeerId
    name: str
    session: str
    """Drawn at random at each start of the peer, so that others notice a restart."""
    serial: int = 0
    """Rises with each change of the card within a session."""
    group_tag: str = ""
    protocol: tuple[int, int] = PROTOCOL
    software: str = ""
    addresses: tuple[Address, ...] = ()
    task: str = ""
    classes: int = 0
    histogram: tuple[int, ...] = ()
    """Labelled samples seen per class; empty when the peer does not expose them."""
    architecture: str = ""
    start: str = ""
    """Fingerprint of the initial weights: equal only for peers with a common start."""
    layers: tuple[Layer, ...] = ()
    strategy: str = ""
    exposes: frozenset[Exposure] = frozenset()
    public_sets: tuple[PublicSet, ...] = ()
    version: int = 0
    """Version of the latest snapshot; rises."""
    learns_from: tuple[PeerId, ...] = ()
    """Peers whose knowledge this one used in its latest transfer."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    certificate_sha256: bytes = b""
