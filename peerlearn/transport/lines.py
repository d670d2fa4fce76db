"""Connections to other peers: one cached gRPC channel per address, and a fresh one after a failure."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import grpc
import grpc.aio

from peerlearn.config import MIB, Limits
from peerlearn.errors import Oversized, PeerRefused, PeerUnreachable, WireError
from peerlearn.transport.exchange import DETAIL_CHARS, reason_of
from peerlearn.types import Address

_DEFAULT_MESSAGE_BYTES = 4 * MIB  # gRPC's own limit
_SAID_CHARS = 200


class Credentials(Protocol):
    """Mutual TLS, as PEM: both ends show a certificate of the same authority, made out to `server_name`."""

    @property
    def authority(self) -> bytes: ...
    @property
    def certificate(self) -> bytes: ...
    @property
    def key(self) -> bytes: ...
    @property
    def server_name(self) -> str: ...


def options(limits: Limits) -> list[tuple[str, int | str]]:
    """For server and channel: a bounded look-ahead instead of one that grows with the bandwidth (TRANSPORT, B6)."""
    most = max(_DEFAULT_MESSAGE_BYTES, limits.header_bytes + MIB, limits.block_bytes + MIB)
    return [
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", 8 * MIB),
        ("grpc.max_receive_message_length", most),
        ("grpc.max_send_message_length", -1),
    ]


@dataclass(slots=True)
class _Line:
    channel: grpc.aio.Channel
    users: int = 0
    broken: bool = False


class Lines:
    """Channels by address. After PeerUnreachable the next call gets a new one: a peer that returns is reached at once,
    without gRPC's back-off, and a connection that hangs is not asked twice. The old one ends with its last call."""

    def __init__(self, limits: Limits, credentials: Credentials | None) -> None:
        self._credentials = credentials
        self._options = [
            *options(limits),
            ("grpc.use_local_subchannel_pool", 1),  # or the new channel would inherit the old one's back-off
            ("grpc.enable_http_proxy", 0),  # peers are on the LAN, whatever the environment says
        ]
        self._lines: dict[Address, _Line] = {}

    @asynccontextmanager
    async def to(self, address: Address) -> AsyncIterator[grpc.aio.Channel]:
        """A channel for one call, which must be over at the end of the block."""
        line = self._lines.get(address)
        if line is None:
            line = self._lines[address] = _Line(self._open(address))
        line.users += 1
        try:
            yield line.channel
        except PeerUnreachable:
            line.broken = True
            if self._lines.get(address) is line:
                del self._lines[address]
            raise
        finally:
            line.users -= 1
            if line.broken and not line.users:
                await line.channel.close()

    async def close(self) -> None:
        lines, self._lines = self._lines, {}
        for line in lines.values():
            await line.channel.close()

    def _open(self, address: Address) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(str(address), options=self._options)
        tls = grpc.ssl_channel_credentials(
            root_certificates=self._credentials.authority,
            private_key=self._credentials.key,
            certificate_chain=self._credentials.certificate,
        )
        named = ("grpc.ssl_target_name_override", self._credentials.server_name)
        return grpc.aio.secure_channel(str(address), tls, options=[*self._options, named])


def translated(peer: str, error: grpc.aio.AioRpcError) -> PeerUnreachable | PeerRefused | WireError:
    """What a failed call means in our words. The word grpc goes no further than this."""
    said = " ".join((error.details() or "").split())
    code = error.code()
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        return _refused(peer, said)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Oversized(f"{peer}: a frame is larger than this peer takes: {said[:_SAID_CHARS]}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return PeerUnreachable(peer, "something answers there that is not a peer of peerlearn")
    if code is grpc.StatusCode.UNAVAILABLE:
        return PeerUnreachable(peer, f"no connection ({said.rpartition(': ')[2][:_SAID_CHARS]})")  # the innermost cause
    if code is grpc.StatusCode.UNKNOWN:
        return PeerUnreachable(peer, f"it failed while it answered: {said[:_SAID_CHARS]}")
    return PeerUnreachable(peer, said[:_SAID_CHARS] or code.name.lower())


def refusal_details(refused: PeerRefused) -> str:
    """A refusal as the details of a status: the reason, a colon, the sentence."""
    return f"{refused.reason}: {refused.said[:DETAIL_CHARS]}"


def _refused(peer: str, details: str) -> PeerRefused:
    reason, _, said = details.partition(": ")
    return PeerRefused(peer, reason_of(reason), said[:DETAIL_CHARS])


class CallPipe:
    """The consumer's end of an exchange over gRPC."""

    def __init__(self, call: "grpc.aio.StreamStreamCall[bytes, bytes]", peer: str) -> None:
        self._call = call
        self._peer = peer

    async def read(self) -> bytes | None:
        try:
            data = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise translated(self._peer, error) from error
        return data if isinstance(data, bytes) else None

    async def write(self, data: bytes) -> None:
        try:
            await self._call.write(data)
        except grpc.aio.AioRpcError as error:
            raise translated(self._peer, error) from error
        except asyncio.InvalidStateError as error:
            raise PeerUnreachable(self._peer, "it ended the exchange before the question was through") from error

    async def done(self) -> None:
        await self._call.done_writing()
