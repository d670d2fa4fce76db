"""A peer of a newer minor version, whose messages hold fields that this release does not know, takes part as any other:
it is met, watched, and answered, over memory and over gRPC."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import pytest

from peerlearn.config import Limits, brisk
from peerlearn.directory import Directory
from peerlearn.membership import Membership
from peerlearn.security import Identity
from peerlearn.testing import SOON
from peerlearn.transport.base import Caller, Service, Traffic, Transport
from peerlearn.transport.grpc.transport import GrpcTransport
from peerlearn.transport.memory.transport import MemoryNetwork
from peerlearn.types import PROTOCOL, Address, Card, PeerId
from peerlearn.wire.frames import Message
from peerlearn.wire.partial_message import PartialMessage
from peerlearn.wire.protocol import our_protocol
from peerlearn.wire.v1 import fabric_pb2 as pb

MINOR = PROTOCOL[1] + 7
UNKNOWN = b"\xb8\x3e\x05" + b"\xc2\x3e\x03abc"
"""Fields 999, a varint, and 1000, a text."""

M = TypeVar("M", pb.Introduction, pb.WatchRequest, pb.Notice, pb.Header)


def newer(message: M) -> M:
    """As a release of a newer minor would write it: with its version, and with fields that this one does not know."""
    made = type(message).FromString(message.SerializeToString() + UNKNOWN)
    if isinstance(made, (pb.Introduction, pb.Header)):
        made.protocol.minor = MINOR
    return made


async def all_newer(notices: AsyncIterator[pb.Notice]) -> AsyncGenerator[pb.Notice, None]:
    async for notice in notices:
        yield newer(notice)


@dataclass
class NewerTransport:
    """Another transport, by which everything is asked as by a newer release."""

    inner: Transport

    def serving(self, service: Service) -> AbstractAsyncContextManager[Address]:
        return self.inner.serving(service)

    async def introduce(self, to: Address, introduction: pb.Introduction) -> pb.Introduction:
        return await self.inner.introduce(to, newer(introduction))

    async def reach(self, to: Address) -> None:
        await self.inner.reach(to)

    async def watch(
        self,
        to: Address,
        request: pb.WatchRequest,
        *,
        notices: AsyncIterator[pb.Notice] | None = None,
        certificates: Collection[bytes] = (),
    ) -> AsyncGenerator[pb.Notice, None]:
        told = all_newer(notices) if notices is not None else None
        async with aclosing(self.inner.watch(to, newer(request), notices=told)) as heard:
            async for notice in heard:
                yield notice

    async def exchange(
        self,
        to: Address,
        question: Message,
        *,
        into: PartialMessage | None = None,
        certificates: Collection[bytes] = (),
    ) -> tuple[Message, Traffic]:
        return await self.inner.exchange(to, Message(newer(question.header), question.body), into=into)


@dataclass
class Guest:
    """A peer without anything that learns: it answers every question with the header that it was asked with."""

    membership: Membership
    transport: Transport
    address: Address = field(default_factory=lambda: Address("", 0))
    asked: list[pb.Header] = field(default_factory=list)

    async def introduce(self, introduction: pb.Introduction, caller: Caller) -> pb.Introduction:
        return await self.membership.introduce(introduction, caller)

    def watch(self, request: pb.WatchRequest, caller: Caller) -> AsyncIterator[pb.Notice]:
        return self.membership.watch(request, caller)

    async def told(self, request: pb.WatchRequest, caller: Caller, notices: AsyncIterator[pb.Notice]) -> None:
        await self.membership.told(request, caller, notices)

    async def admit(self, header: pb.Header, caller: Caller) -> Caller:
        self.membership.vouch(caller, PeerId(header.sender), header.session)
        return caller

    async def answer(self, question: Message, admitted: Caller) -> Message:
        self.asked.append(question.header)
        return Message(pb.Header(protocol=our_protocol(), not_modified=pb.NotModified(version=3)))

    async def ask(self, other: "Guest") -> pb.Header:
        card = self.membership.card
        header = pb.Header(protocol=our_protocol(), sender=card.id, session=card.session)
        header.query.want = "nothing"
        return (await self.transport.exchange(other.address, Message(header)))[0].header

    def knows(self, other: "Guest", version: int) -> bool:
        contact = self.membership.directory.get(other.membership.card.id)
        return contact is not None and contact.alive and contact.reached and contact.version == version


class Newer(Guest):
    """Answers, too, as a newer release does."""

    async def introduce(self, introduction: pb.Introduction, caller: Caller) -> pb.Introduction:
        return newer(await super().introduce(introduction, caller))

    def watch(self, request: pb.WatchRequest, caller: Caller) -> AsyncIterator[pb.Notice]:
        return all_newer(super().watch(request, caller))

    async def answer(self, question: Message, admitted: Caller) -> Message:
        return Message(newer((await super().answer(question, admitted)).header))


@asynccontextmanager
async def taking_part(made: Guest, name: str) -> AsyncIterator[None]:
    membership = made.membership
    card = Card(id=membership.card.id, name=name, session=os.urandom(8).hex())
    async with made.transport.serving(made) as made.address, membership.running(made.address, card):
        yield


@pytest.mark.parametrize("first", ["older", "newer"])
@pytest.mark.parametrize("kind", ["memory", "grpc"])
async def test_a_peer_of_a_newer_minor_is_met_watched_and_answered(kind: str, first: str) -> None:
    """`first`: the one that is there when the other introduces itself to it, and watches it, telling of itself."""
    network, timing, limits = MemoryNetwork(), brisk(), Limits()

    def membership(transport: Transport, *peers: Address) -> Membership:
        identity = Identity.ephemeral()
        directory = Directory(identity.id, group_tag="", timing=timing, limits=limits)
        return Membership(identity, directory, transport, [], timing=timing, limits=limits, peers=peers)

    def transport() -> Transport:
        return network.transport(timing=timing) if kind == "memory" else GrpcTransport(timing=timing)

    def old(*peers: Address) -> Guest:
        carrying = transport()
        return Guest(membership(carrying, *peers), carrying)

    def new(*peers: Address) -> Guest:
        carrying = NewerTransport(transport())
        return Newer(membership(carrying, *peers), carrying)

    make = (old, new) if first == "older" else (new, old)
    one = make[0]()
    async with taking_part(one, "one"):
        two = make[1](one.address)
        async with taking_part(two, "two"), asyncio.timeout(SOON):
            one.membership.announce_version(3)
            two.membership.announce_version(5)
            await one.membership.until(lambda _: one.knows(two, 5))
            await two.membership.until(lambda _: two.knows(one, 3))
            older, newest = (one, two) if first == "older" else (two, one)
            for _ in range(2):  # over gRPC by a stream, and then by a unary call
                assert (await older.ask(newest)).protocol.minor == MINOR
                assert (await newest.ask(older)).protocol == our_protocol()
            assert [header.protocol.minor for header in older.asked] == [MINOR] * 2
            await asyncio.sleep(2 * timing.suspect_after)
            assert one.knows(two, 5), "it is heard of"
            assert two.knows(one, 3)


def test_what_is_sent_here_as_newer_is_unknown_to_this_release() -> None:
    said = newer(pb.Introduction(protocol=our_protocol()))
    assert said.SerializeToString() != pb.Introduction(protocol=said.protocol).SerializeToString()
    said.DiscardUnknownFields()
    assert said == pb.Introduction(protocol=pb.Protocol(major=PROTOCOL[0], minor=MINOR))
