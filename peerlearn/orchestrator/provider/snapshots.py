"""The snapshots that a peer serves: the latest, and in lockstep the last few."""

from peerlearn.learning.snapshot import Snapshot


class Snapshots:
    """Written on the event loop between two awaits; a snapshot handed out never changes."""

    def __init__(self, *, keep: int = 1) -> None:
        self._keep = keep
        self._kept: dict[int, Snapshot] = {}
        self._latest: Snapshot | None = None

    @property
    def latest(self) -> Snapshot | None:
        return self._latest

    def at(self, version: int) -> Snapshot | None:
        return self._kept.get(version)

    def publish(self, snapshot: Snapshot) -> None:
        if self._latest is not None and snapshot.version <= self._latest.version:
            raise ValueError(f"snapshot versions rise: {snapshot.version} after {self._latest.version}")
        self._latest = self._kept[snapshot.version] = snapshot
        for old in sorted(self._kept)[: -self._keep]:
            del self._kept[old]
