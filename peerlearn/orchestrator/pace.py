"""Free or lockstep: whether a peer may run ahead of the others."""

import asyncio
from dataclasses import dataclass
from typing import Literal

from peerlearn.clock import now
from peerlearn.errors import ConfigError
from peerlearn.orchestrator.news import Company
from peerlearn.types import PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """`free`: an exchange takes a provider's latest snapshot, nobody waits for anybody. `lockstep`: the exchange of a
    peer that has published version v takes version v of each provider, and no peer starts a round before all the
    others have published the version it has; for experiments and bit-identical runs. `patience`: how long, in
    seconds, a live peer may take for a round before the others go on without it."""

    mode: Literal["free", "lockstep"] = "free"
    patience: float = 300.0

    def __post_init__(self) -> None:
        if self.mode not in ("free", "lockstep"):
            raise ConfigError(f"pace: {self.mode!r} is neither free nor lockstep")
        if not self.patience > 0:
            raise ConfigError(f"pace: patience must be positive, not {self.patience}")

    @property
    def kept_versions(self) -> int:
        """In lockstep a provider may be one version past the one that its slowest consumer asks for."""
        return 2 if self.mode == "lockstep" else 1


class Barrier:
    """Who is behind, and how long that has been so."""

    def __init__(self, pace: Pace, company: Company) -> None:
        self._pace = pace
        self._company = company
        self._since: dict[PeerId, tuple[int, float]] = {}

    @property
    def lockstep(self) -> bool:
        return self._pace.mode == "lockstep"

    def behind(self, version: int) -> tuple[PeerId, ...]:
        """Live peers that have not published `version`, unless the patience with them has run out."""
        if not self.lockstep:
            return ()
        slow = {c.card.id: c.version for c in self._company.alive() if c.version < version}
        for peer in self._since.keys() - slow.keys():
            del self._since[peer]
        for peer, at in slow.items():
            if peer not in self._since or self._since[peer][0] != at:
                self._since[peer] = (at, now())
        return tuple(sorted(p for p in slow if now() - self._since[p][1] < self._pace.patience))

    async def wait(self, changed: asyncio.Event) -> None:
        """Until something changes, or the patience with somebody may have run out."""
        left = [at + self._pace.patience - now() for _, at in self._since.values()]
        left = [seconds for seconds in left if seconds > 0]
        try:
            async with asyncio.timeout(min(left) + 0.01 if left else None):
                await changed.wait()
        except TimeoutError:
            return
