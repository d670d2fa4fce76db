"""What a peer's events say about where it stands: events in, one small row out. No drawing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

PRESENT = ("confirmed", "back", "suspect", "moved")
"""Statuses of a PeerChanged event that mean: it is here."""
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
    """Where one peer stands. `seen` takes its events as JSON objects, in order, from a sink or from another process."""

    name: str = ""
    classes: tuple[int, ...] = ()
    rounds: int | None = None
    """To do; from the first event on counted from the round that was resumed."""
    address: str = ""
    round: int = 0
    """Rounds completed."""
    phase: str = "starting"
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last evaluation."""
    others: dict[str, str] = field(default_factory=dict)
    """Names of the peers that are here, by id."""
    learns_from: tuple[str, ...] = ()
    """Providers of the last transfer."""
    taught_by: set[str] = field(default_factory=set)
    """Providers of any transfer so far."""
    received_bytes: int = 0
    _began: int | None = None

    def seen(self, event: Mapping[str, Any]) -> None:
        take = _TAKES.get(str(event.get("kind")))
        if take is not None:
            take(self, event)

    def _hello(self, event: Mapping[str, Any]) -> None:
        self.name, self.rounds = str(event["name"]), int(event["rounds"])
        self.classes = tuple(int(c) for c in event["classes"])

    def _started(self, event: Mapping[str, Any]) -> None:
        self.name, self.address, self.phase = str(event["name"]), str(event["address"]), "meeting"

    def _peer(self, event: Mapping[str, Any]) -> None:
        if event["status"] in PRESENT:
            self.others[str(event["peer"])] = str(event["name"])
        else:
            self.others.pop(str(event["peer"]), None)

    def _phase(self, event: Mapping[str, Any]) -> None:
        self.round = max(self.round, int(event["round"]))
        self.phase = str(event["phase"])

    def _fetched(self, event: Mapping[str, Any]) -> None:
        self.received_bytes += int(event["received_bytes"])

    def _trained(self, event: Mapping[str, Any]) -> None:
        if event["phase"] == "transfer":
            self.learns_from = tuple(event["providers"])
            self.taught_by.update(self.learns_from)

    def _evaluated(self, event: Mapping[str, Any]) -> None:
        self.metrics = {key: value for key, value in event["metrics"].items() if value is not None}

    def _published(self, event: Mapping[str, Any]) -> None:
        """The first one is where the peer begins: at 0, or where a saved run stood. Then one ends each round."""
        round_, version = int(event["round"]), int(event["version"])
        if self._began is None:
            self._began = version - round_
            self.rounds = None if self.rounds is None else self.rounds + round_
        self.round = max(self.round, version - self._began)

    def _finished(self, event: Mapping[str, Any]) -> None:
        self.phase = "done"

    def _stopped(self, event: Mapping[str, Any]) -> None:
        self.round, self.phase = int(event["round"]), "left"

    @property
    def accuracy(self) -> float | None:
        """The figure to show while training: shared accuracy where it is measured, else on held-out data."""
        for key in ("shared", "balanced", "accuracy"):
            if key in self.metrics:
                return self.metrics[key]
        return None

    @staticmethod
    def company(event: Mapping[str, Any]) -> str:
        """What a PeerChanged event says, in a sentence; problems with an address are sentences already."""
        words = STATUS_WORDS.get(str(event["status"]))
        if words is None or not event["peer"]:
            return str(event["why"])
        return f"{event['name']} {words}" + (f": {event['why']}" if event["why"] else "")

    def line(self) -> str:
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


_TAKES: dict[str, Callable[[PeerProgress, Mapping[str, Any]], None]] = {
    "hello": PeerProgress._hello,
    "started": PeerProgress._started,
    "peer": PeerProgress._peer,
    "phase": PeerProgress._phase,
    "fetched": PeerProgress._fetched,
    "trained": PeerProgress._trained,
    "evaluated": PeerProgress._evaluated,
    "published": PeerProgress._published,
    "finished": PeerProgress._finished,
    "stopped": PeerProgress._stopped,
}
