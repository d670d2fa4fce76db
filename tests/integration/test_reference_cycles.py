"""Calls that fail leave no reference cycles: what these hold, connections among it, would wait for the collector, which
comes late where much else lives."""

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager

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

TIMES = 20
MOST = 10
"""Objects in cycles, for each call; of one that fails there were 75."""


def nobody() -> Address:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return Address("127.0.0.1", server.getsockname()[1])


@contextmanager
def few_cycles() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
        found = gc.collect()
    finally:
        gc.enable()
    assert found < MOST * TIMES, f"{found / TIMES:.0f} objects in cycles for each call"


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
