"""A fetcher that knows one provider, over a given transport."""

import asyncio
from typing import Any

from peerlearn.config import Limits
from peerlearn.directory import Contact, Liveness
from peerlearn.orchestrator.consumer.fetch import Fetcher
from peerlearn.orchestrator.exposure import Allowance, Showing
from peerlearn.types import Address, Card, Exposure, PeerId

ADA, BOB = PeerId("ad" * 16), PeerId("bb" * 16)


def card(peer: PeerId, name: str) -> Card:
    return Card(id=peer, name=name, session="s1", classes=4, strategy="distillation", exposes=frozenset(Exposure))


class Here:
    """A directory of one provider."""

    def __init__(self, at: Address) -> None:
        self.contact = Contact(
            card=card(BOB, "bob"), address=at, status=Liveness.ALIVE, last_beat=0, since=0, version=3, reached=True
        )

    def alive(self) -> list[Contact]:
        return [self.contact]

    def get(self, peer: PeerId) -> Contact | None:
        return self.contact

    def doubt(self, peer: PeerId) -> None:
        """Met by nobody here."""

    def complain(self, peer: PeerId, why: str) -> None:
        """Nothing is complained of here."""

    def left(self, peer: PeerId) -> bool:
        return False

    async def news(self) -> None:
        await asyncio.Event().wait()


def fetcher(transport: Any, at: Address) -> Fetcher:
    showing = Showing(
        Allowance(frozenset(Exposure)), state=frozenset({"w"}), public=frozenset(), namesakes=lambda name: 1
    )
    return Fetcher(
        card(ADA, "ada"), "distillation", transport=transport, directory=Here(at), certificates=lambda peer: (),
        showing=showing, limits=Limits(),
    )  # fmt: skip
