"""A LAN of network namespaces; needs root."""

import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Lan:
    left: str
    right: str
    left_ip: str = "10.77.0.1"
    right_ip: str = "10.77.0.2"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def lan() -> Iterator[Lan]:
    """Skips, with the reason, where namespaces cannot be made: tried, not guessed."""
    if shutil.which("ip") is None:
        pytest.skip("network namespaces: there is no `ip` command (iproute2) here")
    tag = secrets.token_hex(2)
    made = Lan(f"pl-a-{tag}", f"pl-b-{tag}")
    try:
        try:
            ip("netns", "add", made.left)
            ip("netns", "add", made.right)
            ip("link", "add", "lan0", "netns", made.left, "type", "veth", "peer", "name", "lan0", "netns", made.right)
            for space, address in ((made.left, made.left_ip), (made.right, made.right_ip)):
                ip("-n", space, "addr", "add", f"{address}/24", "dev", "lan0")
                ip("-n", space, "link", "set", "lan0", "up")
                ip("-n", space, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as exc:
            pytest.skip(f"network namespaces cannot be made here: {exc.stderr.strip() or exc}")
        yield made
    finally:
        for space in (made.left, made.right):
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)
