"""Pace of a peer: free, or lockstep, in which no peer runs more than one round ahead of the others."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from peerlearn.clock import now
from peerlearn.errors import ConfigError
from peerlearn.orchestrator.directory_view import DirectoryView
from peerlearn.types import PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Settings of the pace. Raises ConfigError for values that make no sense."""

    mode: Literal["free", "lockstep"] = "free"
    """free: an exchange takes the latest snapshot of each provider, and no peer waits for another. lockstep: a peer
    that has published version v asks each provider for version v, and starts a round only after all others have
    published the version that it has; for experiments and bit-identical runs."""
    patience: float = 300.0
    """Seconds that a live peer may take for a version before the others go on without it. The default allows for a
    round of several minutes on a small machine; much less would leave slow peers behind."""
    absence: float = 0.0
    """Seconds that lockstep waits for a peer that fell silent without a goodbye. A peer that is killed and resumed
    within this time changes no bit of any run. 0: the others go on at once."""

    def __post_init__(self) -> None:
        if self.mode not in ("free", "lockstep"):
            raise ConfigError(f"pace: {self.mode!r} is neither free nor lockstep")
        if not self.patience > 0:
            raise ConfigError(f"pace: patience must be positive, not {self.patience}")
        if not self.absence >= 0 or (self.absence and self.mode != "lockstep"):
            raise ConfigError(f"pace: absence is for lockstep, in seconds, at least 0, not {self.absence}")

    @property
    def kept_versions(self) -> int:
        """Snapshots to keep. In lockstep a provider may be one version ahead of the one that its slowest consumer asks
        for."""
        return 2 if self.mode == "lockstep" else 1


_ABSENT = -1
"""Version that stands for "fell silent": below every real version, so that such a peer counts as behind."""


class Barrier:
    """Holds a lockstep peer back until the others have caught up. Lives on the event loop."""

    def __init__(self, pace: Pace, directory: DirectoryView) -> None:
        self._pace = pace
        self._directory = directory
        self._since: dict[PeerId, tuple[int, float]] = {}
        """Per peer that is behind: its version, and the time at which it was first seen at that version."""
        self._met: set[PeerId] = set()
        """Peers seen alive that have not said goodbye since."""

    def behind(self, version: int) -> tuple[PeerId, ...]:
        """Peers to wait for: those that have not published `version` or fell silent, until their patience or absence
        has run out. A peer that advances gets the full patience again."""
        alive = {c.card.id: c.version for c in self._directory.alive()}
        slow = {peer: at for peer, at in alive.items() if at < version} | dict.fromkeys(self._absent(alive), _ABSENT)
        for peer in self._since.keys() - slow.keys():
            del self._since[peer]
        for peer, at in slow.items():
            if peer not in self._since or self._since[peer][0] != at:
                self._since[peer] = (at, now())
        return tuple(sorted(p for p in slow if self._left_to_wait(p) > 0))

    def _absent(self, alive: Collection[PeerId]) -> set[PeerId]:
        if not self._pace.absence:
            return set()
        self._met = {peer for peer in self._met.union(alive) if not self._directory.left(peer)}
        return self._met.difference(alive)

    def _left_to_wait(self, peer: PeerId) -> float:
        at, since = self._since[peer]
        return since + (self._pace.absence if at == _ABSENT else self._pace.patience) - now()

    async def wait(self, changed: asyncio.Event) -> None:
        """Wait until something changes, or until the patience with one of the peers has run out."""
        left = [seconds for peer in self._since if (seconds := self._left_to_wait(peer)) > 0]
        try:
            # 10 ms late: a timer that fires just before the end would only make `behind` wait again.
            async with asyncio.timeout(min(left) + 0.01 if left else None):
                await changed.wait()
        except TimeoutError:
            return
