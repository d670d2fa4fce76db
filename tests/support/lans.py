"""Local networks of network namespaces: a switch in one, a host in each of the others, a cable (veth) to each host."""

import asyncio
import json
import secrets
import shutil
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

LAN_PEER = Path(__file__).with_name("lan_peer.py")
_HERE = ("confirmed", "back", "moved")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@dataclass(frozen=True)
class Lan:
    """Hosts 0, 1, ... have 10.77.0.1, 10.77.0.2, ... on their interface `lan0`."""

    tag: str
    hosts: int

    @property
    def switch(self) -> str:
        return f"pl-sw-{self.tag}"

    def space(self, host: int) -> str:
        return f"pl-{host}-{self.tag}"

    def address(self, host: int) -> str:
        return f"10.77.0.{host + 1}"

    def connect(self, host: int) -> None:
        """Give the host its interface, a cable to the switch, and an address."""
        space, port = self.space(host), f"port{host}"
        ip("link", "add", "lan0", "netns", space, "type", "veth", "peer", "name", port, "netns", self.switch)
        ip("-n", self.switch, "link", "set", port, "master", "left", "up")
        ip("-n", space, "addr", "add", f"{self.address(host)}/24", "dev", "lan0")
        ip("-n", space, "link", "set", "lan0", "up")

    def disconnect(self, host: int) -> None:
        """The interface is gone, as when a USB adapter is pulled out."""
        ip("-n", self.space(host), "link", "del", "lan0")

    def pull(self, host: int) -> None:
        ip("-n", self.switch, "link", "set", f"port{host}", "down")

    def plug(self, host: int) -> None:
        ip("-n", self.switch, "link", "set", f"port{host}", "up")

    def readdress(self, host: int, address: str) -> None:
        """Another lease: the interface stays, its address is another."""
        ip("-n", self.space(host), "addr", "del", f"{self.address(host)}/24", "dev", "lan0")
        ip("-n", self.space(host), "addr", "add", f"{address}/24", "dev", "lan0")

    def part(self, others: Collection[int]) -> None:
        """These hosts are on a switch of their own from now on; every cable keeps its light."""
        for host in others:
            ip("-n", self.switch, "link", "set", f"port{host}", "master", "right")

    def join(self, others: Collection[int]) -> None:
        for host in others:
            ip("-n", self.switch, "link", "set", f"port{host}", "master", "left")


@contextmanager
def lan(hosts: int, *, connected: bool = True) -> Iterator[Lan]:
    """Skips, with the reason, where namespaces cannot be made: tried, not guessed."""
    if shutil.which("ip") is None:
        pytest.skip("network namespaces: there is no `ip` command (iproute2) here")
    made = Lan(secrets.token_hex(2), hosts)
    spaces = [made.switch, *(made.space(host) for host in range(hosts))]
    try:
        try:
            for space in spaces:
                ip("netns", "add", space)
                ip("-n", space, "link", "set", "lo", "up")
            for bridge in ("left", "right"):
                # Without snooping: there is no router here to ask who listens to which group.
                ip("-n", made.switch, "link", "add", bridge, "type", "bridge", "mcast_snooping", "0")
                ip("-n", made.switch, "link", "set", bridge, "up")
            for host in range(hosts if connected else 0):
                made.connect(host)
        except subprocess.CalledProcessError as exc:
            pytest.skip(f"network namespaces cannot be made here: {exc.stderr.strip() or exc}")
        yield made
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)


@dataclass
class Voice:
    """What a peer on a host says, as it says it: the last status and address of everybody it has met."""

    name: str
    statuses: dict[str, str] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def here(self) -> set[str]:
        return {name for name, status in self.statuses.items() if status in _HERE and name != self.name}

    async def listen(self, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            fact: dict[str, str] = json.loads(line)
            self.statuses[fact["name"]], self.addresses[fact["name"]] = fact["status"], fact["address"]
            self.news.set()

    async def until(self, condition: Callable[["Voice"], bool], *, within: float = 40.0) -> None:
        try:
            async with asyncio.timeout(within):
                while not condition(self):
                    self.news.clear()
                    await self.news.wait()
        except TimeoutError:
            raise AssertionError(f"{self.name} still sees {self.statuses} at {self.addresses}") from None

    async def sees(self, *names: str) -> None:
        """Exactly these are here."""
        await self.until(lambda voice: voice.here == set(names) - {self.name})


@asynccontextmanager
async def peer(lan: Lan, host: int, name: str, listen: str = "0.0.0.0:0") -> AsyncIterator[Voice]:
    """A peer on this host, until the block is left; it is then killed."""
    command = ["ip", "netns", "exec", lan.space(host), sys.executable, str(LAN_PEER), name, "g", listen]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    assert process.stdout is not None
    voice = Voice(name)
    try:
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(voice.listen(process.stdout))
            await voice.until(lambda own: name in own.statuses)
            yield voice
            listening.cancel()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
