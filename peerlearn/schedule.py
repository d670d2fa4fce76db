"""The order of a peer's work: a cycle of spans, and spans that events trigger. Plain values; `orchestrator.plan` reads
them."""

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
    """Ask providers for knowledge.

    `early`: the question does not depend on the local span before it. It is then sent at the start of the round, and
    answers arrive while local training runs (prefetch). `most`: largest number of providers to ask; None: no bound.

    `order` says which providers come first. merit: the most promising. random: drawn from the peer's seed and round.
    pairs: all peers are drawn into pairs, and this peer asks its partner only. Every peer that sees the same peers
    draws the same pairs, from the version in lockstep and from the round otherwise. With an odd number of peers one has
    no partner.
    """

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
    """Train with received knowledge for a span. The gate decides whether the result is kept."""

    span: Span


@dataclass(frozen=True, slots=True)
class Publish:
    """Make a snapshot with the next version; from then on other peers get this one. A cycle without a Publish publishes
    at its end, after the transfer span, where models measured best."""


Phase = Local | Exchange | Transfer | Publish
"""One step of a schedule."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """One round is one pass through `cycle`. `first` runs once, before the first round. `on[event]` runs when `event`
    happened, before the cycle goes on. An empty cycle waits for events only.

    Events: `received` when knowledge came with another peer's question; `drift`, `recovered` and others when a Report
    names them. Raises ConfigError when there is neither a cycle nor a trigger.
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
        """True if some phase of this schedule asks providers."""
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
