"""Progress: the state of the orchestrator in a checkpoint. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from peerlearn.errors import ConfigError, StateError
from peerlearn.schedule import Exchange, Local, Phase, Publish, Transfer
from peerlearn.types import PeerId, Span

_NAMES: dict[type[Phase], str] = {Local: "local", Exchange: "exchange", Transfer: "transfer", Publish: "publish"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """State of a run between two steps."""

    round: int
    """Rounds completed."""
    version: int
    """Version of the latest snapshot."""
    cursor: int
    """Index of the due phase in the schedule's cycle."""
    into: int = 0
    """Optimizer steps that the due local span has made already."""
    triggered: tuple[Phase, ...] = ()
    """Phases that events have put before the cycle, oldest first."""
    first: bool = False
    """True if the schedule's `first` phases are still to be done."""
    taught_by: tuple[PeerId, ...] = ()
    """Providers whose knowledge the strategy holds."""
    reputation: Mapping[str, Any] = field(default_factory=dict)
    """Suspected and quarantined providers; see `Reputation.as_tree`."""

    def as_tree(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "round": self.round,
            "version": self.version,
            "cursor": self.cursor,
            "into": self.into,
            "triggered": [_as_tree(phase) for phase in self.triggered],
            "first": self.first,
            "taught_by": [str(peer) for peer in self.taught_by],
            "reputation": dict(self.reputation),
        }

    @classmethod
    def of_tree(cls, tree: Mapping[str, Any]) -> Self:
        """Progress from `as_tree`; a missing value is as in a fresh run. Raises StateError."""
        try:
            return cls(
                round=int(tree["round"]),
                version=int(tree["version"]),
                cursor=int(tree["cursor"]),
                into=int(tree.get("into", 0)),
                triggered=tuple(_phase(each) for each in tree.get("triggered", ())),
                first=bool(tree.get("first", False)),
                taught_by=tuple(PeerId(str(peer)) for peer in tree.get("taught_by", ())),
                reputation=dict(tree.get("reputation", {})),
            )
        except (KeyError, TypeError, ValueError, ConfigError) as exc:
            raise StateError(f"where the run stood cannot be read: {exc}") from exc


def _as_tree(phase: Phase) -> dict[str, Any]:
    kept: dict[str, Any] = {"phase": _NAMES[type(phase)]}
    if isinstance(phase, Local | Transfer):
        kept |= {"amount": phase.span.amount, "unit": phase.span.unit}
    elif isinstance(phase, Exchange):
        kept |= {"early": phase.early, "most": phase.most, "order": phase.order}
    return kept


def _phase(kept: Mapping[str, Any]) -> Phase:
    match kept["phase"]:
        case "local":
            return Local(Span(kept["amount"], kept["unit"]))
        case "transfer":
            return Transfer(Span(kept["amount"], kept["unit"]))
        case "exchange":
            return Exchange(early=kept["early"], most=kept["most"], order=kept["order"])
        case "publish":
            return Publish()
        case other:
            raise ValueError(f"there is no phase {other!r}")
