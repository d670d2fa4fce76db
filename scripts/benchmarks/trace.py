"""How many modules one round of one peer enters, and how often control moves between them. Run by `scripts/trace`.

Counts calls of functions in peerlearn's own modules during one round of the first of two peers over gRPC on loopback;
both peers and all their threads are seen. Left out: membership, directory, clock and tasks, which run beside a round. A
move is two calls in a row in different modules.
"""

import asyncio
import sys
import threading
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

import peerlearn as pl
from peerlearn.types import Address

ROOT = str(Path(pl.__file__).parent) + "/"
LEFT_OUT = ("clock.py", "tasks.py", "membership/", "directory/")
SHOWN = 25
"""Modules in the table, those entered most often first."""


class Trace:
    """The calls seen while it is on, in order: (module, function)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.on = False

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        """A profile function of `sys.setprofile`."""
        code = frame.f_code
        if self.on and event == "call" and code.co_filename.startswith(ROOT):
            module = code.co_filename[len(ROOT) :]
            if not module.startswith(LEFT_OUT):
                self.calls.append((module, code.co_qualname))

    @property
    def rooms(self) -> list[str]:
        """The modules in the order in which they are entered."""
        calls = self.calls
        return [module for at, (module, _) in enumerate(calls) if at == 0 or calls[at - 1][0] != module]


def _learner(seed: int) -> pl.Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(seed))
    return pl.Learner(model, (x, torch.arange(60) % 3), batch_size=20, seed=seed)


def _peer(strategy: str, name: str, seed: int, *addresses: Address) -> pl.Peer:
    return pl.Peer(
        _learner(seed),
        strategy=strategy,
        name=name,
        network=pl.Network(peers=addresses),
        internals=pl.Internals(discovery=()),
    )


async def traced(strategy: str) -> Trace:
    """One round of a peer that has done two, with a provider that has done one."""
    trace = Trace()
    threading.setprofile(trace)
    try:
        async with AsyncExitStack() as stack:
            one = await stack.enter_async_context(_peer(strategy, "amber", 1))
            two = await stack.enter_async_context(_peer(strategy, "birch", 2, one.address))
            for peer in (one, two):
                await peer.meet(1, timeout=30)
            await one.run(2)
            await two.run(1)
            sys.setprofile(trace)
            trace.on = True
            await one.run(1)
            trace.on = False
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return trace


def main(strategy: str = "fedavg") -> None:
    """Print the figures of one round."""
    torch.set_num_threads(1)
    trace = asyncio.run(traced(strategy))
    calls, rooms = trace.calls, trace.rooms
    figures = f"{len(calls)} calls, {len(set(calls))} functions, {len(set(rooms))} rooms, {len(rooms) - 1} moves"
    sys.stdout.write(f"{strategy}: {figures}\n")
    for module, times in Counter(rooms).most_common(SHOWN):
        sys.stdout.write(f"{times:5} {module}\n")


if __name__ == "__main__":
    main(*sys.argv[1:2])
