"""Free or lockstep: whether a peer may run ahead of the others."""

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
    """`free`: an exchange takes a provider's latest snapshot, nobody waits for anybody. `lockstep`: the exchange of a
    peer that has published version v takes version v of each provider, and no peer starts a round before all the
    others have published the version it has; for experiments and bit-identical runs. `patience`: how long, in
    seconds, a live peer may take for a round before the others go on without it. `absence`: how long lockstep waits
    for a peer that fell silent without a goodbye, so that one that is killed and resumed changes no bit of anybody's
    run; 0: not at all."""

    mode: Literal["free", "lockstep"] = "free"
    patience: float = 300.0
    absence: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in ("free", "lockstep"):
            raise ConfigError(f"pace: {self.mode!r} is neither free nor lockstep")
        if not self.patience > 0:
            raise ConfigError(f"pace: patience must be positive, not {self.patience}")
        if not self.absence >= 0 or (self.absence and self.mode != "lockstep"):
            raise ConfigError(f"pace: absence is for lockstep, in seconds, at least 0, not {self.absence}")

    @property
    def kept_versions(self) -> int:
        """In lockstep a provider may be one version past the one that its slowest consumer asks for."""
        return 2 if self.mode == "lockstep" else 1


_ABSENT = -1
"""In place of the version of a peer that fell silent."""


class Barrier:
    """Lockstep: which peers are behind, and how long that has been so."""

    def __init__(self, pace: Pace, directory: DirectoryView) -> None:
        self._pace = pace
        self._directory = directory
        self._since: dict[PeerId, tuple[int, float]] = {}
        self._met: set[PeerId] = set()

    def behind(self, version: int) -> tuple[PeerId, ...]:
        """Live peers that have not published `version`, and absent ones, unless the patience with them has run out."""
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
        """Until something changes, or the patience with somebody may have run out."""
        left = [seconds for peer in self._since if (seconds := self._left_to_wait(peer)) > 0]
        try:
            async with asyncio.timeout(min(left) + 0.01 if left else None):
                await changed.wait()
        except TimeoutError:
            return
