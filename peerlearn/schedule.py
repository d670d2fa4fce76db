"""When a peer does what: a cycle of spans, and what certain events trigger. Values only; the plan reads them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from peerlearn.errors import ConfigError
from peerlearn.types import Span


@dataclass(frozen=True, slots=True)
class Local:
    """Train on own labels for a span."""

    span: Span


@dataclass(frozen=True, slots=True)
class Exchange:
    """Ask the providers. `early`: the question does not depend on the local span before it, so it is asked at the
    start of the round and the answers travel while local training runs (prefetch). `most`: how many providers at most;
    `order`: the most promising first; or drawn at random (from the peer's seed and round); or only the one with whom
    this peer is drawn into a pair, as all draw it who see the same company (by the version in lockstep, by the round
    else; with an odd number one sits out)."""

    early: bool = True
    most: int | None = None
    order: Literal["merit", "random", "pairs"] = "merit"

    def __post_init__(self) -> None:
        if self.most is not None and self.most < 1:
            raise ConfigError(f"an exchange asks at least one provider, not {self.most}")
        if self.order not in ("merit", "random", "pairs"):
            raise ConfigError(f"an exchange orders providers by merit, random or pairs, not {self.order!r}")


@dataclass(frozen=True, slots=True)
class Transfer:
    """Train with what was received, for a span; gated."""

    span: Span


@dataclass(frozen=True, slots=True)
class Publish:
    """Make a snapshot with the next version: from now on others get this one. A cycle that names no Publish
    publishes at its end: after the transfer span, where the methods are at their best (PROTOTYPES, meshes)."""


Phase = Local | Exchange | Transfer | Publish


@dataclass(frozen=True, slots=True)
class Schedule:
    """One round is one pass through `cycle`. `first` is done once, before the first round. `on[event]` is done, before
    the cycle goes on, when `event` happened:

    `received`: knowledge came with somebody's question; `drift`, `recovered`, ...: events named in a Report.
    An empty cycle waits for events only.
    """

    cycle: tuple[Phase, ...]
    on: Mapping[str, tuple[Phase, ...]] = field(default_factory=dict)
    first: tuple[Phase, ...] = ()
    phases: tuple[Phase, ...] = field(init=False, repr=False, compare=False)
    """The cycle with its closing Publish made explicit."""

    def __post_init__(self) -> None:
        if not self.cycle and not self.on:
            raise ConfigError("a schedule needs a cycle or a trigger, else the peer would do nothing for ever")
        closed = not self.cycle or any(isinstance(phase, Publish) for phase in self.cycle)
        object.__setattr__(self, "phases", self.cycle if closed else (*self.cycle, Publish()))

    @property
    def exchanges(self) -> bool:
        """Whether this schedule ever asks anybody."""
        return any(isinstance(p, Exchange) for phases in (self.first, self.cycle, *self.on.values()) for p in phases)

    def resized(self, *, local: Span | None = None, transfer: Span | None = None) -> "Schedule":
        """The same schedule with other spans for its local and transfer phases."""

        def resize(phase: Phase) -> Phase:
            if isinstance(phase, Local) and local is not None:
                return Local(local)
            if isinstance(phase, Transfer) and transfer is not None:
                return Transfer(transfer)
            return phase

        return replace(
            self,
            cycle=tuple(resize(p) for p in self.cycle),
            first=tuple(resize(p) for p in self.first),
            on={event: tuple(resize(p) for p in phases) for event, phases in self.on.items()},
        )
