"""A flood of silent connections takes every file descriptor of a peer's process: the peer goes on, and recovers."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 192
"""Descriptors that the process may hold: enough for a peer, fewer than the flood."""

PEER = """
import asyncio, json, os, resource, sys
LIMIT = int(sys.argv[2])
from peerlearn.arguments import Network
from peerlearn.peer import Peer
from peerlearn.testing.learners import blob_learner

async def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    network = Network(listen="0.0.0.0:0", insecure=True, group_tag=sys.argv[1])
    async with Peer(blob_learner([0, 1], 1, amount=64), strategy="isolated", name="amber", network=network) as peer:
        print(json.dumps({"port": peer.address.port}), flush=True)
        held = lambda: len(os.listdir("/proc/self/fd"))
        most = 0
        for _ in range(60):
            await peer.run(1)
            await asyncio.sleep(0.15)
            try:
                most = max(most, held())
            except OSError:
                most = LIMIT
        print(json.dumps({"rounds": peer.rounds_done, "most": most}), flush=True)

asyncio.run(main())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts descriptors in /proc")
def test_a_peer_without_a_descriptor_left_trains_on(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PEER, tmp_path.name, str(LIMIT)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]
        silent = []
        try:
            for _ in range(2 * LIMIT):
                one = socket.socket()
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", port))
                silent.append(one)
            time.sleep(5)  # the periodic look at the addresses comes every three seconds
        finally:
            for one in silent:
                one.close()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    last = json.loads(out.splitlines()[-1])
    assert last["rounds"] == 60
    assert last["most"] >= LIMIT - 8, "the flood did take the descriptors"
    assert "Traceback" not in err
