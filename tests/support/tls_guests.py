"""Memberships of a group over mutual TLS, without learners."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from peerlearn.config import Limits, brisk
from peerlearn.directory import Directory
from peerlearn.events import MemorySink
from peerlearn.membership import Membership
from peerlearn.membership.trust import Trust
from peerlearn.security import Group, Identity, Passport
from peerlearn.security.revocation import Revocations
from peerlearn.testing import until
from peerlearn.transport.base import Caller
from peerlearn.transport.grpc.transport import GrpcTransport
from peerlearn.types import PROTOCOL, Address, Card, PeerId
from peerlearn.wire.frames import Message
from peerlearn.wire.v1 import fabric_pb2 as pb

LOCAL = Address("127.0.0.1", 0)


PROTO = pb.Protocol(major=PROTOCOL[0], minor=PROTOCOL[1])


TIMING = replace(brisk(), base=20.0, stall=20.0)
"""Silence is noticed at once, but an answer may take its time."""


LAB = Group.new("lab")


@dataclass
class Guest:
    """One member's right tower, which answers every question by its own header."""

    name: str
    identity: Identity
    membership: Membership
    transport: GrpcTransport
    passport: Passport | None
    events: MemorySink
    address: Address = LOCAL
    slow: asyncio.Event | None = None
    asked: int = 0

    async def introduce(self, introduction: pb.Introduction, caller: Caller) -> pb.Introduction:
        return await self.membership.introduce(introduction, caller)

    def watch(self, request: pb.WatchRequest, caller: Caller) -> AsyncIterator[pb.Notice]:
        return self.membership.watch(request, caller)

    async def told(self, request: pb.WatchRequest, caller: Caller, notices: AsyncIterator[pb.Notice]) -> None:
        await self.membership.told(request, caller, notices)

    async def admit(self, header: pb.Header, caller: Caller) -> Caller:
        self.membership.vouch(caller, PeerId(header.sender), header.session)
        return caller

    async def answer(self, question: Message, caller: Caller) -> Message:
        self.asked += 1
        if self.slow is not None:
            await self.slow.wait()
        return Message(pb.Header(protocol=PROTO, sender=self.identity.id, not_modified=pb.NotModified(version=1)))

    @property
    def alive(self) -> list[str]:
        return sorted(contact.name for contact in self.membership.directory.alive())

    @property
    def card(self) -> pb.SignedCard:
        return self.membership._own.signed()

    def question(self) -> Message:
        header = pb.Header(protocol=PROTO, sender=self.identity.id, session=self.membership.card.session)
        header.query.want = "nothing"
        return Message(header)

    async def ask(self, other: "Guest") -> Message:
        holders = self.membership.certificates_of(other.identity.id)
        return (await self.transport.exchange(other.address, self.question(), certificates=holders))[0]


@asynccontextmanager
async def guest(
    name: str, group: Group | None = LAB, *others: Guest, identity: Identity | None = None, limits: Limits | None = None
) -> AsyncIterator[Guest]:
    identity, events, limits = identity or Identity.ephemeral(), MemorySink(), limits or Limits()
    passport = Passport(group, limits=limits) if group is not None else None
    transport = GrpcTransport(LOCAL, timing=TIMING, limits=limits, credentials=passport, guard=passport)
    trust = Trust(passport, recheck=transport.recheck) if passport is not None else None
    directory = Directory(identity.id, group_tag="", timing=TIMING, limits=limits)
    membership = Membership(
        identity, directory, transport, [], timing=TIMING, limits=limits, record=events, trust=trust,
        peers=[other.address for other in others],
    )  # fmt: skip
    made = Guest(name, identity, membership, transport, passport, events)
    card = Card(id=identity.id, name=name, session=f"s-{time.monotonic_ns()}")
    async with transport.serving(made) as made.address, membership.running(made.address, card):
        yield made


async def meet(*guests: Guest) -> None:
    for one in guests:
        await until(lambda one=one: one.alive == sorted(g.name for g in guests if g is not one))  # type: ignore[misc]


def introduction(card: pb.SignedCard | None = None) -> pb.Introduction:
    return pb.Introduction(protocol=PROTO, card=card)


def revoked(group: Group, before: Revocations | None = None, **whom: Any) -> pb.SignedRevocations:
    signed = (before or Revocations()).also(group, **whom).signed
    assert signed is not None
    return signed
