"""Memberships that share a network, without learners."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from peerlearn.config import Limits, Timing, brisk
from peerlearn.directory import Directory
from peerlearn.discovery.lobby import Lobby
from peerlearn.errors import PeerRefused, RefusalReason
from peerlearn.events import MemorySink, PeerChanged
from peerlearn.membership import Membership
from peerlearn.security import Identity
from peerlearn.transport.base import Caller, Transport
from peerlearn.transport.grpc.transport import GrpcTransport
from peerlearn.transport.memory.transport import MemoryNetwork
from peerlearn.types import Address, Card, PeerId
from peerlearn.wire.frames import Message
from peerlearn.wire.v1 import fabric_pb2 as pb

LIMITS = Limits()


@dataclass
class Guest:
    """One peer's right tower, without anything that learns."""

    name: str
    membership: Membership
    transport: Transport
    address: Address
    events: MemorySink
    identity: Identity

    @property
    def directory(self) -> Directory:
        return self.membership.directory

    @property
    def id(self) -> PeerId:
        return self.identity.id

    def names(self) -> list[str]:
        return sorted(contact.name for contact in self.directory.alive())

    def life(self, name: str) -> list[str]:
        return [event.status for event in self.events.of(PeerChanged) if event.name == name]


class Served:
    """The two halves of a Service that membership has; exchanges are not its business."""

    def __init__(self, membership: Membership) -> None:
        self.introduce = membership.introduce
        self.watch = membership.watch
        self.told = membership.told

    async def admit(self, header: pb.Header, caller: Caller) -> Caller:
        raise PeerRefused("test", RefusalReason.STRATEGY, "nothing is asked here")

    async def answer(self, question: Message, caller: Caller) -> Message:
        raise PeerRefused("test", RefusalReason.STRATEGY, "nothing is asked here")


@dataclass
class MembershipNetwork:
    """Makes peers that share a network."""

    kind: str
    timing: Timing = field(default_factory=brisk)
    network: MemoryNetwork = field(default_factory=MemoryNetwork)

    def transport(self) -> Transport:
        if self.kind == "memory":
            return self.network.transport(timing=self.timing, limits=LIMITS)
        return GrpcTransport(Address("127.0.0.1", 0), timing=self.timing, limits=LIMITS)

    @asynccontextmanager
    async def peer(
        self,
        name: str,
        *,
        peers: Sequence[Address] = (),
        identity: Identity | None = None,
        group_tag: str = "",
        lobby: Lobby | None = None,
        session: str = "",
        discoveries: Sequence[Any] = (),
        limits: Limits = LIMITS,
        hidden: bool = False,
    ) -> AsyncIterator[Guest]:
        identity = identity or Identity.ephemeral()
        events = MemorySink()
        transport = self.transport()
        directory = Directory(identity.id, group_tag=group_tag, timing=self.timing, limits=limits)
        doors: list[Any] = list(discoveries)
        membership = Membership(
            identity,
            directory,
            transport,
            doors,
            timing=self.timing,
            limits=limits,
            group_tag=group_tag,
            record=events,
            peers=peers,
        )
        card = Card(id=identity.id, name=name, session=session or os.urandom(8).hex(), classes=2, histogram=(1, 2))
        async with transport.serving(Served(membership)) as address:
            if lobby is not None:
                doors.append(lobby.door(address))
            seen = Address("127.0.0.1", 0) if hidden else address
            async with membership.running(seen, card):
                yield Guest(name, membership, transport, address, events, identity)
