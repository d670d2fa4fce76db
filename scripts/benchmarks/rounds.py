"""Averaging as users run it: whole peers, each in a process of its own, in lockstep."""

import time
from contextlib import AsyncExitStack

import torch
from torch import Tensor, nn

from benchmarks.minimal_peer import SmallestMember
from peerlearn.arguments import Internals, Network
from peerlearn.learning.learner import Learner
from peerlearn.orchestrator.pace import Pace
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.peer import Peer
from peerlearn.strategies.fedavg import FedAvg

SAMPLES, INPUTS, HIDDEN, CLASSES, BATCH = 1797, 64, 32, 10, 32
"""As many as scikit-learn's digits, and as large: 56 steps in all, whoever does them (TRANSPORT, section E)."""


class RoundPeer:
    """Peer `number` of `peers`; the addresses are those of the ones before it."""

    def __init__(self, number: int, peers: int, addresses: list[str]) -> None:
        self._peers = peers
        self._stack = AsyncExitStack()
        self._peer = Peer(
            _learner(number, peers), strategy=FedAvg(aggregate="mean"), name=f"peer{number}",
            pace=Pace(mode="lockstep"), gate=Gate(metric="off"),
            network=Network(peers=addresses, group_tag="bench-averaging"),
            internals=Internals(discovery=()),
        )  # fmt: skip

    async def open(self) -> str:
        """The address at which the next ones find it."""
        await self._stack.enter_async_context(self._peer)
        return str(self._peer.address)

    async def rounds(self, rounds: int) -> float:
        """Seconds of so many rounds: an epoch on its own data, and the mean of all."""
        await self._peer.meet(self._peers - 1, timeout=30)
        start = time.perf_counter()
        await self._peer.run(rounds)
        return time.perf_counter() - start

    async def close(self) -> None:
        await self._stack.aclose()


def smallest(number: int, peers: int, addresses: list[str]) -> SmallestMember:
    """The same work with nothing of ours."""
    model, x, y = _work(number, peers)
    return SmallestMember(model, x, y, batch=BATCH, peers=peers, addresses=addresses, seed=number)


def _learner(number: int, peers: int) -> Learner:
    model, x, y = _work(number, peers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Learner(model, (x, y), optimizer=optimizer, classes=CLASSES, seed=0, batch_size=BATCH)


def _work(number: int, peers: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The model, the same for all, and a share of the samples."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, INPUTS, generator=draw)
    y = (x @ torch.randn(INPUTS, CLASSES, generator=draw)).argmax(dim=1)  # can be learned, as digits can
    mine = slice(number, None, peers)
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)), x[mine], y[mine]
