"""Processes that start in milliseconds, to be killed: one process imports everything, then forks for each order.

`python forge.py`, then an order a line, as JSON: {"run": ["resume", "DIR"], "log": FILE} or {"pair": {...}}
starts a process, and its pid is printed; {"wait": PID} prints its exit status, less than 0 for a signal. An order may
carry "cwd", "env" and "crash" ([what, n]: see `plant`).
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

os.environ.update(GRPC_ENABLE_FORK_SUPPORT="0", OMP_NUM_THREADS="1", GRPC_VERBOSITY="NONE")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from peerlearn.arguments import Internals, Network
from peerlearn.cli.main import main
from peerlearn.config import Timing
from peerlearn.events import JsonlSink
from peerlearn.orchestrator.pace import Pace
from peerlearn.orchestrator.training.gate import Gate
from peerlearn.peer import Peer
from peerlearn.testing import blob_learner


def plant(what: str, n: int) -> None:
    """Kill -9 this process at its n-th `fsync` of anything, with half of that file written; or its n-th `replace`."""
    left = n

    def counted() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        if counted():
            if not os.path.isdir(f"/proc/self/fd/{handle}"):
                os.ftruncate(handle, os.fstat(handle).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        real_fsync(handle)

    def replace(path: Path, target: Path) -> Path:
        if counted():
            os.kill(os.getpid(), signal.SIGKILL)
        return real_replace(path, target)

    if what == "fsync":
        os.fsync = fsync  # type: ignore[assignment]
    else:
        Path.replace = replace  # type: ignore[method-assign, assignment]


async def one_of_a_pair(given: dict[str, Any]) -> None:
    """A peer in lockstep with one other, for so many rounds; then it answers until it is killed."""
    timing = Timing(beat=0.1, suspect_after=30.0, gone_after=60.0, base=10.0, stall=10.0, retry_first=0.05)
    mine = blob_learner(given["classes"], given["seed"], amount=given.get("amount", 1600))
    peer = Peer(
        mine, strategy="distillation", name=given["name"], state=given["state"],
        pace=Pace(mode="lockstep", absence=60.0), gate=Gate(metric="off"),
        record=JsonlSink.open(Path(given["events"])),
        network=Network(group_tag=given["tag"], timing=timing, listen=given.get("listen")),
        internals=Internals(save_every=given["save_every"]),
    )  # fmt: skip
    async with peer:
        await peer.meet(1, timeout=60)
        await peer.run(given["rounds"] - peer.rounds_done)
        await asyncio.Event().wait()


def become(order: dict[str, Any]) -> None:
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(order.get("cwd", "/"))
    os.environ.update(order.get("env", {}))
    if "crash" in order:
        plant(*order["crash"])
    if "pair" in order:
        asyncio.run(one_of_a_pair(order["pair"]))
    sys.exit(main(order["run"]))


if __name__ == "__main__":
    blob_learner([0], 0)  # the first optimizer of a process imports half of torch
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
        elif (pid := os.fork()) == 0:
            become(order)
        else:
            print(pid, flush=True)
