"""peerlearn: two processes, as our own commands set them up; state dict to live state dict."""

import asyncio
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.measuring import in_turn, lanes_of
from benchmarks.names import STATE_100MB, TINY
from benchmarks.processes import pair

from peerlearn.security.group import Group
from peerlearn.version import __version__


async def main(times: int) -> None:
    told: dict[str, object] = {"version": __version__}
    with tempfile.TemporaryDirectory() as folder:
        group = Path(folder, "group")
        Group.new("bench").save(group)
        async with pair(str(group)) as two:
            for size, payload in (("big", STATE_100MB), ("tiny", TINY)):
                nbytes = await two.hold(payload)
                took = await in_turn(lanes_of(two, payload, nbytes, "into-model"), times)
                told[size] = took["into-model"]
    sys.stdout.write(json.dumps(told) + "\n")


asyncio.run(main(int(sys.argv[3])))
