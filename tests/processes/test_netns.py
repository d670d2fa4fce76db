"""mDNS between two network namespaces joined by veth: two machines, as far as the kernel's network is concerned."""

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.namespaces import Lan, ip, lan

__all__ = ["lan"]  # fixture

LAN_PEER = Path(__file__).parents[1] / "support" / "lan_peer.py"


@asynccontextmanager
async def process(space: str, name: str, group: str, listen: str) -> AsyncIterator[Process]:
    made = await asyncio.create_subprocess_exec(
        "ip", "netns", "exec", space, sys.executable, str(LAN_PEER), name, group, listen, stdout=PIPE
    )
    try:
        yield made
    finally:
        if made.returncode is None:
            made.kill()
        await made.communicate()


async def says(process: Process, name: str, status: str) -> dict[str, str]:
    assert process.stdout is not None
    async with asyncio.timeout(40):
        while line := await process.stdout.readline():
            fact: dict[str, str] = json.loads(line)
            if (fact["name"], fact["status"]) == (name, status):
                return fact
    raise AssertionError(f"the process ended without saying that {name} is {status}")


async def test_two_machines_find_each_other_on_all_interfaces(lan: Lan) -> None:
    async with (
        process(lan.left, "amber", "g", "0.0.0.0:0") as amber,
        process(lan.right, "birch", "g", "[::]:0") as birch,
    ):
        assert (await says(amber, "birch", "confirmed"))["address"].rpartition(":")[0] != "127.0.0.1"
        assert (await says(birch, "amber", "confirmed"))["address"].startswith(lan.left_ip)
        birch.send_signal(signal.SIGUSR1)
        await says(amber, "birch", "version")
        birch.send_signal(signal.SIGTERM)
        await says(amber, "birch", "left")


async def test_a_pulled_cable_is_silence_and_plugging_it_in_heals(lan: Lan) -> None:
    async with process(lan.left, "amber", "g", f"{lan.left_ip}:0") as amber:
        async with process(lan.right, "birch", "g", f"{lan.right_ip}:0") as birch:
            await says(amber, "birch", "confirmed")
            await says(birch, "amber", "confirmed")
            ip("-n", lan.left, "link", "set", "lan0", "down")
            await says(amber, "birch", "suspect")
            await says(amber, "birch", "gone")
            ip("-n", lan.left, "link", "set", "lan0", "up")
            await says(amber, "birch", "back")
            await says(birch, "amber", "back")


async def test_loopback_only_stays_on_its_machine(lan: Lan) -> None:
    async with process(lan.left, "amber", "g", "127.0.0.1:0") as amber, process(lan.right, "birch", "g", "127.0.0.1:0"):
        async with process(lan.left, "cedar", "g", "127.0.0.1:0"):
            await says(amber, "cedar", "confirmed")
        amber.send_signal(signal.SIGTERM)
        rest = (await amber.communicate())[0].decode()
        assert "birch" not in rest
