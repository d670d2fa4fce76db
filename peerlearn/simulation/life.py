"""One life of a simulated peer, from its start to its goodbye or to a power failure."""

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
"""Called with each event of a life."""


@dataclass(eq=False)
class Life:
    """One run of a simulated peer. `dead`: its power has failed, and its later events are ignored."""

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
        """Pass an event on, unless the power has failed."""
        if not self.dead:
            self.joined = self.joined or isinstance(event, Started)
            self.heard(self, event)

    @property
    def learner(self) -> Learner:
        """The peer's learner."""
        return self.peer.learner

    @property
    def up(self) -> bool:
        """True if the peer has joined and is not about to leave."""
        return self.joined and not self.dead and not self.leaving.is_set()


@dataclass(eq=False)
class Place:
    """A machine and its disk, on which one life follows another. `installed`: how often the machine was reinstalled."""

    number: int
    name: str
    disk: Disk = field(default_factory=Disk)
    life: Life | None = None
    lives: int = 0
    installed: int = 0


def sizes(life: Life, limits: Limits) -> list[tuple[str, int, int]]:
    """What a peer holds about other peers: name, present number, largest allowed number. The only function that reads a
    peer's private attributes for this."""
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
    if (running := membership._running) is not None:
        found += [
            ("leads", len(running.resolver._leads), limits.peers),
            ("pursuits", len(running.resolver._pursuits), limits.peers),
            ("peers waited for to go", len(running.resolver._gone), limits.peers),
            ("peers followed", len(running.watcher._peers), limits.peers),
            ("tasks of membership", len(running.tasks._tasks), 4 * limits.peers),
        ]
    return found
