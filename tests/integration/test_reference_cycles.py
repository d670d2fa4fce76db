"""Calls that fail leave no reference cycles: what these hold, connections among it, would wait for the collector, which
comes late where much else lives."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from peerlearn.config import Limits, brisk
from peerlearn.directory import Directory
from peerlearn.errors import PeerUnreachable
from peerlearn.membership.introducing import Introducer
from peerlearn.membership.introductions import Introductions
from peerlearn.transport.grpc.transport import GrpcTransport
from peerlearn.types import Address, PeerId
from peerlearn.wire.frames import Message
from peerlearn.wire.v1 import fabric_pb2 as pb
from tests.support.cycles import TIMES, few_cycles, nobody


def meeting(transport: GrpcTransport) -> Introducer:
    directory = Directory(PeerId("a" * 32), group_tag="", timing=brisk(), limits=Limits())
    return Introducer(
        transport,
        directory,
        Introductions(directory, group_tag="", limits=Limits(), card=None),
        timing=brisk(),
        is_me=lambda card: False,
        heard=lambda card, introduction, address: None,
        refused=lambda refusal: None,
    )


async def beats() -> AsyncIterator[pb.Notice]:
    while True:
        yield pb.Notice(beat=pb.Beat())
        await asyncio.sleep(0)


CALLS: dict[str, Callable[[GrpcTransport, Address], Awaitable[object]]] = {
    "introduce": lambda transport, to: transport.introduce(to, pb.Introduction()),
    "meet": lambda transport, to: meeting(transport).meet([to]),
    "watch": lambda transport, to: anext(transport.watch(to, pb.WatchRequest())),
    "watch that tells": lambda transport, to: anext(transport.watch(to, pb.WatchRequest(tells=True), notices=beats())),
    "reach": lambda transport, to: transport.reach(to),
    "exchange": lambda transport, to: transport.exchange(to, Message(pb.Header())),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_to_nobody_leaves_no_cycles(name: str) -> None:
    async with GrpcTransport(timing=brisk()) as transport:
        with few_cycles():
            for _ in range(TIMES):
                try:
                    await CALLS[name](transport, nobody())
                except PeerUnreachable:
                    continue
                pytest.fail("somebody is there")
