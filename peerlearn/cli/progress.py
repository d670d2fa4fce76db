"""What a peer's events say about where it stands: events in, one small row out. No drawing."""

from dataclasses import dataclass, field

from peerlearn.events import (
    Evaluated,
    Event,
    Fetched,
    Opening,
    PeerChanged,
    PhaseStarted,
    Published,
    Started,
    Stopped,
    Trained,
)

PRESENT = ("confirmed", "back", "suspect", "moved")
"""Statuses of a PeerChanged event that mean that the other peer is here."""
STATUS_WORDS = {
    "confirmed": "is here",
    "back": "is back",
    "suspect": "is silent",
    "moved": "has moved",
    "left": "left",
    "gone": "is gone",
    "refused": "was refused",
}
"""The same for people."""


@dataclass(slots=True)
class PeerProgress:
    """Where one peer stands. `seen` takes its events, in order, from a sink or from another process."""

    name: str = ""
    rounds: int | None = None
    """To do; from the first event on counted from the round that was resumed."""
    address: str = ""
    round: int = 0
    """Rounds completed."""
    phase: str = "starting"
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last evaluation; NaN left out."""
    others: dict[str, str] = field(default_factory=dict)
    """Names of the peers that are here, by id."""
    learns_from: tuple[str, ...] = ()
    """Providers of the last transfer."""
    taught_by: set[str] = field(default_factory=set)
    """Providers of any transfer so far."""
    received_bytes: int = 0
    _began: int | None = None

    def seen(self, event: Event) -> None:  # noqa: C901 (a table, not a tangle)
        """Take one event. Those that say nothing of where the peer stands change nothing."""
        match event:
            case Opening():
                self.name = event.name
            case Started():
                self.name, self.address, self.phase = event.name, event.address, "meeting"
            case PeerChanged():
                self._other(event)
            case PhaseStarted():
                self.round, self.phase = max(self.round, event.round), event.phase
            case Fetched():
                self.received_bytes += event.received_bytes
            case Trained(phase="transfer"):
                self.learns_from = event.providers
                self.taught_by.update(self.learns_from)
            case Evaluated():
                self.metrics = {key: value for key, value in event.metrics.items() if value == value}
            case Published():
                self._published(event)
            case Stopped():
                self.round, self.phase = event.round, "left"

    def _other(self, event: PeerChanged) -> None:
        if event.status in PRESENT:
            self.others[event.peer] = event.name
        else:
            self.others.pop(event.peer, None)

    def _published(self, event: Published) -> None:
        """The first one is where the peer begins: at 0, or where a saved run stood. Then one ends each round."""
        if self._began is None:
            self._began = event.version - event.round
            self.rounds = None if self.rounds is None else self.rounds + event.round
        self.round = max(self.round, event.version - self._began)

    @property
    def accuracy(self) -> float | None:
        """The figure to show while training: shared accuracy where it is measured, else on held-out data."""
        for key in ("shared", "balanced", "accuracy"):
            if key in self.metrics:
                return self.metrics[key]
        return None

    @staticmethod
    def company(event: PeerChanged) -> str:
        """What the event says, in a sentence; problems with an address are sentences already."""
        words = STATUS_WORDS.get(event.status)
        if words is None or not event.peer:
            return event.why
        return f"{event.name} {words}" + (f": {event.why}" if event.why else "")

    def line(self) -> str:
        """The row as one line of text."""
        total = "" if self.rounds is None else f"/{self.rounds}"
        parts = [self.name or "peer", f"round {self.round}{total}", self.phase]
        if self.accuracy is not None:
            parts.append(f"accuracy {self.accuracy:.1%}")
        if self.learns_from:
            parts.append("learns from " + ", ".join(self.learns_from))
        elif self.others:
            parts.append("with " + ", ".join(sorted(self.others.values())))
        parts.append(f"{self.received_bytes / 1e6:.1f} MB received")
        return "  ".join(parts)
