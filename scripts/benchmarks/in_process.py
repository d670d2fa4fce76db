"""Many peers in one process without models, and how soon one is discovered. Loads no torch."""

import asyncio
import math
import resource
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import grpc
import grpc.aio

from benchmarks import memory
from peerlearn.config import Limits, Timing
from peerlearn.directory import Directory
from peerlearn.discovery.base import Announcement, Hint
from peerlearn.discovery.lobby import Lobby, LobbyDoor
from peerlearn.discovery.mdns import Mdns
from peerlearn.errors import ConfigError, PeerRefused, RefusalReason
from peerlearn.membership import Membership
from peerlearn.security import Identity
from peerlearn.transport.base import Caller
from peerlearn.transport.grpc.channels import options
from peerlearn.transport.grpc.transport import GrpcTransport
from peerlearn.types import Address, Card
from peerlearn.wire.frames import Message
from peerlearn.wire.v1 import fabric_pb2 as pb

_HERE = Address("127.0.0.1", 0)
_PER_LINE = 2
"""Descriptors of one connection whose both ends are in this process."""
_OTHERS = 256
_PATIENCE = 60.0
_CARD_BYTES = 300


async def mesh(peers: int) -> dict[str, float]:
    """`peers` over gRPC: seconds until each has met all others, and megabytes held then. Infinitely many when that has
    not come about within a minute; `met` is the part of all acquaintances that has.

    Raises ConfigError, before anything is opened, when this process may not have so many descriptors.
    """
    _check_descriptors(peers)
    lobby, timing = Lobby(), Timing()
    before = memory.held()
    start = time.perf_counter()
    async with AsyncExitStack() as stack:
        directories = [await _join(stack, lobby, f"peer{number}", timing) for number in range(peers)]
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while any(len(directory.alive()) < peers - 1 for directory in directories):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        seconds = time.perf_counter() - start
        met = sum(len(directory.alive()) for directory in directories) / (peers * (peers - 1))
        after = memory.held()
    return {
        "seconds": seconds if met == 1 else math.inf, "met": met,
        "resident_mb": after["resident"] / 1e6, "before_mb": before["resident"] / 1e6,
        "descriptors": after["descriptors"], "threads": after["threads"],
    }  # fmt: skip


async def bare_mesh(peers: int) -> dict[str, float]:
    """As many gRPC servers, of which each is called once over a connection by each of the others: what `mesh` costs at
    least."""
    _check_descriptors(peers)

    async def echo(data: bytes, context: Any) -> bytes:
        return data

    calls: dict[str, grpc.RpcMethodHandler[Any, Any]] = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    start = time.perf_counter()
    async with AsyncExitStack() as stack:
        ports = []
        for _ in range(peers):
            server = grpc.aio.server(options=options(Limits()))
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Mesh", calls),))
            ports.append(server.add_insecure_port(f"{_HERE.host}:0"))
            await server.start()
            stack.push_async_callback(server.stop, 0)

        async def call_all(own: int) -> None:
            for port in ports:
                if port != own:
                    alone = [*options(Limits()), ("grpc.use_local_subchannel_pool", 1)]
                    channel = grpc.aio.insecure_channel(f"{_HERE.host}:{port}", options=alone)
                    stack.push_async_callback(channel.close)
                    method: Any = channel.unary_unary("/bench.Mesh/Echo")
                    await method(bytes(_CARD_BYTES))

        async with asyncio.TaskGroup() as group:
            for port in ports:
                group.create_task(call_all(port))
        return {"seconds": time.perf_counter() - start}


async def _join(stack: AsyncExitStack, lobby: Lobby, name: str, timing: Timing) -> Directory:
    identity, limits = Identity.ephemeral(), Limits()
    transport = GrpcTransport(_HERE, timing=timing, limits=limits)
    directory = Directory(identity.id, group_tag="", timing=timing, limits=limits)
    doors: list[LobbyDoor] = []
    membership = Membership(identity, directory, transport, doors, timing=timing, limits=limits)
    address = await stack.enter_async_context(transport.serving(_SilentGuest(membership)))
    doors.append(lobby.door(address))
    card = Card(id=identity.id, name=name, session=secrets.token_hex(8))
    await stack.enter_async_context(membership.running(address, card))
    return directory


def _check_descriptors(peers: int) -> None:
    """Raise the soft limit as far as is needed; say so when the hard one is in the way."""
    needed = _PER_LINE * peers * (peers - 1) + _OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"{peers} peers in one process need {needed} file descriptors, allowed are {hard}: ulimit -Hn"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class _SilentGuest:
    """A peer that can be met, and has nothing to teach."""

    def __init__(self, membership: Membership) -> None:
        self.introduce = membership.introduce
        self._membership = membership

    def watch(self, request: pb.WatchRequest, caller: Caller) -> AsyncIterator[pb.Notice]:
        return self._membership.watch(request, caller)

    async def told(self, request: pb.WatchRequest, caller: Caller, notices: AsyncIterator[pb.Notice]) -> None:
        await self._membership.told(request, caller, notices)

    async def admit(self, header: pb.Header, caller: Caller) -> Caller:
        raise PeerRefused("bench", RefusalReason.STRATEGY, "nothing is asked here")

    async def answer(self, question: Message, caller: Caller) -> Message:
        raise PeerRefused("bench", RefusalReason.STRATEGY, "nothing is asked here")


async def discovery(times: int) -> dict[str, list[float]]:
    """Seconds over mDNS on loopback. `seen`: from announcing to being heard by one who listens already; `late`: from
    listening to hearing one who is there already. Raises NetworkError where there is no multicast."""
    seen, late = [], []
    for _ in range(times):
        tag = secrets.token_hex(8)
        ear = _Ear()
        async with Mdns(_HERE.host).announcing(_announcement(tag, 0), ear):
            await asyncio.sleep(0.2)  # its own first question is over
            start = time.perf_counter()
            async with Mdns(_HERE.host).announcing(_announcement(tag, 7411), _Ear()):
                await ear.heard()
                seen.append(time.perf_counter() - start)
                newcomer = _Ear()
                start = time.perf_counter()
                async with Mdns(_HERE.host).announcing(_announcement(tag, 0), newcomer):
                    await newcomer.heard()
                    late.append(time.perf_counter() - start)
    return {"seen": seen, "late": late}


def _announcement(tag: str, port: int) -> Announcement:
    return Announcement(id_prefix=secrets.token_hex(6), group_hash=tag, port=port, protocol_major=1)


class _Ear:
    def __init__(self) -> None:
        self._news = asyncio.Event()

    def hinted(self, hint: Hint) -> None:
        self._news.set()

    def withdrawn(self, source: str, key: str) -> None:
        """Nobody waits for that here."""

    async def heard(self) -> None:
        async with asyncio.timeout(_PATIENCE):
            await self._news.wait()
