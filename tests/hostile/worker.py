"""A whole peer in a process of its own, for the soak and the fuzzer: `python -m tests.hostile.worker '{"name": ...}'`.

It trains without a pause worth mentioning, and says each second how it is, a JSON object a line. At the end of its
input, or on SIGTERM, it finishes its round and says which model it has.
"""

import asyncio
import ctypes
import json
import signal
import sys
from typing import Any

import torch

from peerlearn.arguments import Internals, Network
from peerlearn.clock import now
from peerlearn.config import Limits, brisk
from peerlearn.discovery.mdns import Mdns
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.peer import Peer
from peerlearn.schedule import Local, Publish, Schedule
from peerlearn.testing import bits, blob_learner
from peerlearn.tuning.malloc import tune_allocator
from peerlearn.types import epochs

KEEPS = Schedule(cycle=(Local(epochs(1)), Publish()), on={"received": ()})
"""Takes what others bring, looks at it, and does not learn from it: its model is its own, bit for bit."""


class _MallInfo(ctypes.Structure):
    """glibc's struct mallinfo2: ten sizes."""

    _fields_ = [  # type: ignore[mutable-override]  # ctypes wants it written so
        (name, ctypes.c_size_t) for name in ("a", "b", "c", "d", "mapped", "e", "f", "used", "g", "h")
    ]


def heap() -> int:
    """Bytes that the C library has given out, and that nobody has given back; 0 where it does not tell."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return 0
    libc.mallinfo2.restype = _MallInfo
    known = libc.mallinfo2()
    return int(known.used + known.mapped)


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def held() -> dict[str, int]:
    """What a leak would be seen in, whatever the allocators keep for later."""
    return {"tasks": len(asyncio.all_tasks()), "heap": heap(), "objects": sys.getallocatedblocks()}


async def main(settings: dict[str, Any]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(sys.stdin, stop.set)  # nothing is ever written to it: it is readable when it ends
    tune_allocator()
    peer = Peer(
        blob_learner(settings["classes"], settings["seed"], hidden=32),
        name=settings["name"],
        strategy=settings["strategy"],
        state=settings.get("state"),
        schedule=KEEPS if settings.get("keeps") else None,
        gate=Gate(),
        network=Network(group_tag=settings["tag"], timing=brisk(), limits=Limits(calls=1_000_000)),
        internals=Internals(discovery=() if settings.get("unseen") else (Mdns("127.0.0.1"),)),
    )
    async with peer:
        say(what="listening", address=str(peer.address), round=peer.rounds_done)
        told = now()
        while not stop.is_set() and peer.rounds_done != settings.get("rounds"):
            await peer.run(1)
            await asyncio.sleep(settings.get("pause", 0.0))
            if now() - told > 1.0:
                told = now()
                here = [contact.name for contact in peer.others() if contact.alive]
                say(what="well", round=peer.rounds_done, here=here, **held())
        say(what="done", round=peer.rounds_done, model=bits(dict(peer.learner.state)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    asyncio.run(main(json.loads(sys.argv[1])))
