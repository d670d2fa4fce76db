"""One life of a simulated peer: from a start to the next goodbye, or to the failure of its power."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from peerlearn.config import Limits
from peerlearn.events import Event, Started
from peerlearn.learning.learner import Learner
from peerlearn.peer import Peer
from peerlearn.security.identity import Identity
from peerlearn.simulation.environment import Disk, DiskStore
from peerlearn.simulation.loop import Machine
from peerlearn.types import Address

Heard = Callable[["Life", Event], None]


@dataclass(eq=False)
class Life:
    """`dead`: its power has failed; what it says from then on is heard by nobody."""

    name: str
    peer: Peer
    identity: Identity
    session: str
    machine: Machine
    address: Address
    heard: Heard
    draw: random.Random
    store: DiskStore
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    joined: bool = False
    dead: bool = False

    def record(self, event: Event) -> None:
        if not self.dead:
            self.joined = self.joined or isinstance(event, Started)
            self.heard(self, event)

    @property
    def learner(self) -> Learner:
        return self.peer.learner

    @property
    def up(self) -> bool:
        """Open to others, and meaning to stay."""
        return self.joined and not self.dead and not self.leaving.is_set()


@dataclass(eq=False)
class Place:
    """Where one peer after the other lives: a machine and its disk. `installed`: how often it was set up anew."""

    number: int
    name: str
    disk: Disk = field(default_factory=Disk)
    life: Life | None = None
    lives: int = 0
    installed: int = 0


def sizes(life: Life, limits: Limits) -> list[tuple[str, int, int]]:
    """What a peer holds of others: name, how many, how many at most. The one place that looks inside a peer."""
    peer = life.peer._assembly
    membership, exchanges = peer.membership, peer.orchestrator._exchanges
    found = [
        ("contacts in the directory", len(peer.directory), limits.peers),
        ("watchers", len(membership._watchers._boxes), limits.watches),
        ("providers put aside", len(exchanges._backoff._backoff), limits.peers),
        ("opinions on cards", len(exchanges._misfits), limits.peers),
        ("names remembered", len(exchanges._names), limits.peers),
        ("answers waiting", len(exchanges._answers), limits.peers),
        ("pieces of knowledge brought", len(peer.orchestrator._brought), limits.peers),
        ("spans triggered", len(peer.orchestrator._triggered), limits.peers),
    ]
    if membership._open is not None:
        tasks, company = membership._open
        found += [
            ("leads", len(company.resolver._leads), limits.peers),
            ("pursuits", len(company.resolver._pursuits), limits.peers),
            ("peers waited for to go", len(company.resolver._gone), limits.peers),
            ("peers followed", len(company._watcher._followed), limits.peers),
            ("tasks of membership", len(tasks._tasks), 4 * limits.peers),
        ]
    return found
