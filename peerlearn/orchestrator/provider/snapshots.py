"""Snapshots that a peer answers from: the latest one, and in lockstep the last few."""

from peerlearn.learning.snapshot import Snapshot


class Snapshots:
    """The last `keep` snapshots. Written on the event loop; a snapshot never changes once it is published."""

    def __init__(self, *, keep: int = 1) -> None:
        self._keep = keep
        self._kept: dict[int, Snapshot] = {}
        self._latest: Snapshot | None = None

    @property
    def latest(self) -> Snapshot | None:
        """The snapshot with the highest version; None before the first is published."""
        return self._latest

    def at(self, version: int) -> Snapshot | None:
        """The snapshot of this version; None if it is not kept."""
        return self._kept.get(version)

    def publish(self, snapshot: Snapshot) -> None:
        """Make this the latest snapshot, and drop the oldest. Raises ValueError unless its version is higher."""
        if self._latest is not None and snapshot.version <= self._latest.version:
            raise ValueError(f"snapshot versions rise: {snapshot.version} after {self._latest.version}")
        self._latest = self._kept[snapshot.version] = snapshot
        for old in sorted(self._kept)[: -self._keep]:
            del self._kept[old]
