"""Whole peers in one process, over memory or gRPC, small enough for tests of milliseconds."""

import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import fields, replace
from typing import Any, Literal

from peerlearn.arguments import Internals, Network, Sharing
from peerlearn.config import Timing, brisk
from peerlearn.discovery.base import Discovery
from peerlearn.discovery.lobby import Lobby
from peerlearn.events import MemorySink
from peerlearn.learning.learner import Learner
from peerlearn.peer import Peer
from peerlearn.testing.waiting import SOON
from peerlearn.transport.faults.model import NONE, Faults
from peerlearn.transport.memory.transport import MemoryNetwork


def patient() -> Timing:
    """Brisk, but a machine that is busy elsewhere for ten seconds makes no peer suspect another."""
    return replace(brisk(), suspect_after=10.0, gone_after=40.0, base=20.0, stall=20.0)


class PeerNetwork:
    """Peers that share a network and a group tag; `events[name]` holds the events of each.

        network = PeerNetwork()
        amber = network.peer("amber", blob_learner([0, 1], 1), strategy="distillation")
        birch = network.peer("birch", blob_learner([2, 3], 2), strategy="distillation")
        async with gathered(amber, birch):
            await amber.run(rounds=1)

    `kind` memory: frames are handed over in this process, and a lobby introduces the peers. grpc: real connections and
    mDNS on loopback. Where a test is about silence, give it a timing that notices silence soon:
    `PeerNetwork(timing=brisk())`.
    """

    def __init__(
        self,
        kind: Literal["memory", "grpc"] = "memory",
        timing: Timing | None = None,
        *,
        faults: Faults = NONE,
        seed: int = 0,
    ) -> None:
        """`faults`, drawn from `seed`, are those of the network in memory. `timing` None: `patient()`."""
        self.kind = kind
        self.timing = timing or patient()
        self.network = MemoryNetwork(faults=faults, seed=seed)
        self.lobby = Lobby()
        self.tag = secrets.token_hex(4)
        self.events: dict[str, MemorySink] = {}

    def peer(self, name: str, learner: Learner, **arguments: Any) -> Peer:
        """A peer of this network, not yet open. `arguments`: those of Peer, and those of Network, Sharing and Internals
        by their own names. Raises as Peer does."""
        self.events[name] = MemorySink()
        settings: dict[str, Any] = {
            "name": name, "group_tag": self.tag, "timing": self.timing, "record": self.events[name],
        } | arguments  # fmt: skip
        if self.kind == "memory":
            transport = self.network.transport(timing=self.timing)
            doors: list[Discovery] = [self.lobby.door(transport.address)]
            settings |= {"transport": transport, "discovery": doors}
        return _peer(learner, settings)


def _peer(learner: Learner, settings: dict[str, Any]) -> Peer:
    groups: dict[str, Any] = {"network": Network, "sharing": Sharing, "internals": Internals}
    for group, kind in groups.items():
        own = {f.name: settings.pop(f.name) for f in fields(kind) if f.name in settings}
        if own:
            settings[group] = kind(**own)
    return Peer(learner, **settings)


@contextlib.asynccontextmanager
async def gathered(*peers: Peer) -> AsyncIterator[None]:
    """Inside the block all of them are open, and each has met all the others. Raises PeerUnreachable when they have not
    met within `SOON` seconds."""
    async with contextlib.AsyncExitStack() as stack:
        for peer in peers:
            await stack.enter_async_context(peer)
        for peer in peers:
            await peer.meet(len(peers) - 1, timeout=SOON)
        yield
