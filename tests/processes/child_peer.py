"""A peer in a process of its own, for test_processes.py: `python child_peer.py '{"name": ..., "tag": ...}'`.

It prints its address as soon as it listens; with `train` it then trains without a pause, else it only answers.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from peerlearn.arguments import Network
from peerlearn.config import Timing
from peerlearn.data.datasets import load
from peerlearn.learning import models
from peerlearn.learning.learner import Learner
from peerlearn.peer import Peer
from peerlearn.testing import blob_learner


async def main(settings: dict[str, Any]) -> None:
    timing = Timing(**settings["timing"]) if "timing" in settings else Timing()
    mine = hard_work() if settings.get("train") else blob_learner([2, 3], 2)
    network = Network(group_tag=settings["tag"], timing=timing)
    peer = Peer(mine, name=settings["name"], network=network, state=settings.get("state"))
    async with peer:
        print(peer.address, flush=True)
        await (peer.run() if settings.get("train") else asyncio.Event().wait())


def hard_work() -> Learner:
    return Learner(models.SmallCNN(seed=0), load("fashion-mnist-slice").train, classes=10)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
