"""Whole peers in one process, over either transport, small enough for tests of milliseconds."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import fields, replace
from typing import Any, Literal

import torch
from torch import nn

from peerlearn.arguments import Internals, Network, Sharing
from peerlearn.config import Timing, brisk
from peerlearn.discovery.base import Discovery
from peerlearn.discovery.lobby import Lobby
from peerlearn.events import MemorySink
from peerlearn.learning.learner import Learner
from peerlearn.peer import Peer
from peerlearn.transport.faults.model import NONE, Faults
from peerlearn.transport.memory.transport import MemoryNetwork
from tests.support.patience import SOON

CENTERS = torch.eye(4) * 3


def blobs(classes: list[int], seed: int, amount: int = 240) -> tuple[torch.Tensor, torch.Tensor]:
    """Four blobs in four dimensions, of which a peer sees some: x (N, 4), y (N,)."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.tensor(classes)[torch.randint(0, len(classes), (amount,), generator=draw)]
    return CENTERS[y] + torch.randn(amount, 4, generator=draw), y


def net(hidden: int = 12, *, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential()
        model.add_module("first", nn.Linear(4, hidden))
        model.add_module("relu", nn.ReLU())
        model.add_module("penult", nn.Linear(hidden, hidden))
        model.add_module("relu2", nn.ReLU())
        model.add_module("fc", nn.Linear(hidden, 4))
    return model


def learner(classes: list[int], seed: int, *, hidden: int = 12, amount: int = 240, **more: Any) -> Learner:
    return Learner(net(hidden), blobs(classes, seed, amount), classes=4, seed=seed, batch_size=32, **more)


def calm() -> Timing:
    """Brisk, but nobody is given up for what a busy machine does."""
    return replace(brisk(), suspect_after=10.0, gone_after=40.0, base=20.0, stall=20.0)


class Village:
    """Peers that share a network and a group tag; `events[name]` holds what each has said.

    Where silence is to be noticed, say so: `Village(timing=brisk())`.
    """

    def __init__(
        self,
        kind: Literal["memory", "grpc"] = "memory",
        timing: Timing | None = None,
        *,
        faults: Faults = NONE,
        seed: int = 0,
    ) -> None:
        """`faults` and the seed that they come from are of the network in memory."""
        self.kind = kind
        self.timing = timing or calm()
        self.network = MemoryNetwork(faults=faults, seed=seed)
        self.lobby = Lobby()
        self.tag = secrets.token_hex(4)
        self.events: dict[str, MemorySink] = {}

    def peer(self, name: str, its: Learner, **more: Any) -> Peer:
        """`more`: arguments of Peer, and those of Network, Sharing and Internals by their own names."""
        self.events[name] = MemorySink()
        settings: dict[str, Any] = {
            "name": name, "group_tag": self.tag, "timing": self.timing, "record": self.events[name],
        } | more  # fmt: skip
        if self.kind == "memory":
            transport = self.network.transport(timing=self.timing)
            doors: list[Discovery] = [self.lobby.door(transport.address)]
            settings |= {"transport": transport, "discovery": doors}
        return flat_peer(its, **settings)


def flat_peer(its: Learner, **settings: Any) -> Peer:
    """A Peer from flat arguments: those of Network, Sharing and Internals by their own names."""
    groups: dict[str, Any] = {"network": Network, "sharing": Sharing, "internals": Internals}
    for group, kind in groups.items():
        own = {f.name: settings.pop(f.name) for f in fields(kind) if f.name in settings}
        if own:
            settings[group] = kind(**own)
    return Peer(its, **settings)


@contextlib.asynccontextmanager
async def gathered(*peers: Peer) -> AsyncIterator[None]:
    """All of them open, and each has met all the others."""
    async with contextlib.AsyncExitStack() as stack:
        for peer in peers:
            await stack.enter_async_context(peer)
        for peer in peers:
            await peer.meet(len(peers) - 1, timeout=SOON)
        yield


async def until(condition: Callable[[], bool], *, within: float = SOON) -> None:
    """Looks every few milliseconds; TimeoutError when the condition has not come true in time."""
    async with asyncio.timeout(within):
        await asyncio.sleep(0.01)
        while not condition():  # noqa: ASYNC110  what is waited for has no event of its own
            await asyncio.sleep(0.01)


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
