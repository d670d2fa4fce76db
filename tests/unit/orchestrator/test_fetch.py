"""Waiting for a provider's version in lockstep: patience is for a provider that stands still."""

import asyncio
from typing import Any

import pytest

from peerlearn.config import Limits, Timing
from peerlearn.directory import Contact, Directory
from peerlearn.errors import PeerUnreachable
from peerlearn.orchestrator.consumer.fetch import Fetcher
from peerlearn.orchestrator.exposure import Allowance, Showing
from peerlearn.tasks import Notifier
from peerlearn.transport.memory.transport import MemoryNetwork
from peerlearn.types import Address, Card, PeerId

ME, PROVIDER = PeerId("a" * 32), PeerId("b" * 32)
PATIENCE = 0.3


class Advancing:
    """One provider that publishes a version every `every` seconds, up to `last`."""

    def __init__(self, *, every: float, last: int) -> None:
        self.directory = Directory(ME, group_tag="", timing=Timing(), limits=Limits())
        self.changed = Notifier()
        self.every, self.last = every, last
        self.directory.confirm(Card(id=PROVIDER, name="birch", session="s1"), Address("10.0.0.1", 1), 0.0, reached=True)

    def get(self, peer: PeerId) -> Contact | None:
        return self.directory.get(peer)

    async def news(self) -> None:
        await self.changed.wait()

    async def publish(self) -> None:
        for version in range(1, self.last + 1):
            await asyncio.sleep(self.every)
            self.directory.noticed_version(PROVIDER, "s1", version)
            self.changed.notify()


def fetcher(directory: Any) -> Fetcher:
    showing = Showing(Allowance(frozenset()), state=(), public=(), namesakes=lambda name: 1)
    return Fetcher(
        Card(id=ME, name="amber", session="s1"), "fedavg", transport=MemoryNetwork().transport(),
        directory=directory, certificates=lambda peer: (), showing=showing, limits=Limits(),
    )  # fmt: skip


async def test_a_slow_provider_that_advances_is_waited_for() -> None:
    birch = Advancing(every=0.6 * PATIENCE, last=5)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(birch.publish())
        await fetcher(birch)._reached(PROVIDER, 5, PATIENCE)
    contact = birch.get(PROVIDER)
    assert contact is not None
    assert contact.version == 5


async def test_one_that_stands_still_is_given_up_after_the_patience_and_not_before_the_last_advance() -> None:
    birch, loop = Advancing(every=0.6 * PATIENCE, last=2), asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(birch.publish())
        with pytest.raises(PeerUnreachable, match=r"did not reach version 5 within 0\.3 s; it is at 2"):
            await fetcher(birch)._reached(PROVIDER, 5, PATIENCE)
    assert loop.time() - began >= 2 * 0.6 * PATIENCE + PATIENCE - 0.02
