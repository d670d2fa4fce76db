"""Connections to other peers: cached gRPC channels by address, and fresh ones after a failure."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType

import grpc
import grpc.aio

from peerlearn.config import MIB, Limits
from peerlearn.errors import Oversized, PeerRefused, PeerUnreachable, WireError
from peerlearn.text import one_line
from peerlearn.transport.base import Credentials
from peerlearn.transport.exchange.protocol import DETAIL_CHARS, reason_of
from peerlearn.transport.grpc.tls import channel_credentials
from peerlearn.types import Address

_DEFAULT_MESSAGE_BYTES = 4 * MIB  # gRPC's own limit
_IDLE_MS = 60_000
"""After which a connection without a call is closed: with many peers most pairs have little to say to each other."""
_SAID_CHARS = 200
"""Of gRPC's own words in an error: enough for the cause, short enough for a log line."""

_TLS = re.compile(r"OPENSSL_internal:(\w+)")


def options(limits: Limits) -> list[tuple[str, int | str]]:
    """For server and channel: a bounded look-ahead, instead of one that grows with the bandwidth."""
    most = max(_DEFAULT_MESSAGE_BYTES, limits.header_bytes + MIB, limits.block_bytes + MIB)
    return [
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", limits.look_ahead_bytes),
        ("grpc.max_receive_message_length", most),
        ("grpc.max_send_message_length", -1),
    ]


@dataclass(slots=True, eq=False)
class _ChannelPair:
    """Two connections on the same terms, each made when it is first used. A beat would arrive seconds late behind the
    megabytes that lie in a slow connection's buffers."""

    open: Callable[[], grpc.aio.Channel]
    terms: tuple[bytes, bytes]
    """What the other end must show, and what ours does."""
    users: int = 0
    broken: bool = False
    calls: set[asyncio.Timeout] = field(default_factory=set)
    cut: PeerRefused | None = None
    _small: grpc.aio.Channel | None = None
    _bulk: grpc.aio.Channel | None = None

    @property
    def small(self) -> grpc.aio.Channel:
        """For introductions and watches."""
        if self._small is None:
            self._small = self.open()
        return self._small

    @property
    def bulk(self) -> grpc.aio.Channel:
        """For exchanges."""
        if self._bulk is None:
            self._bulk = self.open()
        return self._bulk

    async def close(self) -> None:
        for channel in (self._small, self._bulk):
            if channel is not None:
                await channel.close()


class ChannelPool:
    """Connections by address. After PeerUnreachable the next call gets new ones: a peer that returns is reached at
    once, without gRPC's back-off, and a connection that hangs is not asked twice. So does the next call after the
    certificates of either side were renewed. The old ones end with their last call."""

    def __init__(self, limits: Limits, credentials: Credentials | None) -> None:
        self._credentials = credentials
        self._options = [
            *options(limits),
            ("grpc.use_local_subchannel_pool", 1),  # or the new channel would inherit the old one's back-off
            ("grpc.enable_retries", 0),  # the caller decides that, and every call would hold memory for it
            ("grpc.client_idle_timeout_ms", _IDLE_MS),
            ("grpc.enable_http_proxy", 0),  # peers are on the LAN, whatever the environment says
        ]
        self._channels: dict[Address, _ChannelPair] = {}
        self._idle: list[_ChannelPair] = []

    @asynccontextmanager
    async def to(self, address: Address, roots: bytes = b"") -> AsyncIterator[grpc.aio.Channel]:
        """A channel for one small call, which must be over at the end of the block. With TLS the other end must show a
        certificate of `roots` (PEM), by default of our own authority."""
        pair = await self._pair(address, roots)
        async with _Use(self, address, pair):
            yield pair.small

    @asynccontextmanager
    async def bulk(self, address: Address, roots: bytes = b"") -> AsyncIterator[grpc.aio.Channel]:
        """The same, for a large call, which must not outlive `cut`; the block is left by the task that entered it."""
        pair = await self._pair(address, roots)
        async with _Use(self, address, pair):
            if self._credentials is None:  # then no peer is ever shut out
                yield pair.bulk
                return
            async with _until_cut(pair):
                yield pair.bulk

    @asynccontextmanager
    async def fresh(self, address: Address, roots: bytes = b"") -> AsyncIterator[grpc.aio.Channel]:
        """The same, for an introduction: it shows our certificate of today. Once it has succeeded all later calls go
        this way; those meanwhile go the old one, by which the other side knows us."""
        await self._hang_up()
        pair = self._channels.get(address)
        if pair is None or pair.terms != (roots, self._shown):
            pair = self._made(address, roots)
        try:
            async with _Use(self, address, pair), _until_cut(pair):
                yield pair.small
            self._install(address, pair)
        except BaseException:
            if self._channels.get(address) is not pair and not pair.users:
                await pair.close()
            raise

    @asynccontextmanager
    async def once(self, address: Address) -> AsyncIterator[grpc.aio.Channel]:
        """A channel for this one call, to any holder of a certificate of our authority."""
        channel = self._opener(address, b"")()
        try:
            yield channel
        finally:
            await channel.close()

    def cut(self, address: Address, why: PeerRefused) -> None:
        """End the calls to this address with this error, and then the connection."""
        pair = self._channels.get(address)
        if pair is not None:
            pair.cut = why
            self.leave(address, pair)
            for call in pair.calls:
                if call.when() is None:
                    call.reschedule(asyncio.get_running_loop().time())

    async def close(self) -> None:
        """Close all connections."""
        pairs, self._channels = self._channels, {}
        self._idle += pairs.values()
        await self._hang_up()

    async def _hang_up(self) -> None:
        while self._idle:
            await self._idle.pop().close()

    async def _pair(self, address: Address, roots: bytes) -> _ChannelPair:
        pair = self._channels.get(address)
        if pair is None or pair.terms[0] != roots:
            pair = self._made(address, roots)
            self._install(address, pair)
            await self._hang_up()
        return pair

    def _install(self, address: Address, pair: _ChannelPair) -> None:
        old = self._channels.get(address)
        if old is pair or pair.broken:
            return
        self._channels[address] = pair
        if old is not None:
            old.broken = True
            if not old.users:
                self._idle.append(old)

    def leave(self, address: Address, pair: _ChannelPair) -> None:
        """No call begins over it any more."""
        pair.broken = True
        if self._channels.get(address) is pair:
            del self._channels[address]

    def _made(self, address: Address, roots: bytes) -> _ChannelPair:
        return _ChannelPair(self._opener(address, roots), (roots, self._shown))

    @property
    def _shown(self) -> bytes:
        return self._credentials.certificate if self._credentials is not None else b""

    def _opener(self, address: Address, roots: bytes) -> Callable[[], grpc.aio.Channel]:
        """Makes channels that show the certificate of now."""
        if self._credentials is None:
            return partial(grpc.aio.insecure_channel, str(address), options=self._options)
        tls = channel_credentials(self._credentials, roots or self._credentials.authority)
        named = ("grpc.ssl_target_name_override", self._credentials.server_name)
        return partial(grpc.aio.secure_channel, str(address), tls, options=[*self._options, named])


class _Use:
    """One call over a pair. A failed call shows that the pair is broken: it is left, and its last user closes it."""

    __slots__ = ("_address", "_channels", "_pair")

    def __init__(self, channels: ChannelPool, address: Address, pair: _ChannelPair) -> None:
        self._channels = channels
        self._address = address
        self._pair = pair

    async def __aenter__(self) -> None:
        self._pair.users += 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, PeerUnreachable):
            self._channels.leave(self._address, self._pair)
        self._pair.users -= 1
        if self._pair.broken and not self._pair.users:
            await self._pair.close()


@asynccontextmanager
async def _until_cut(pair: _ChannelPair) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(None) as call:
            pair.calls.add(call)
            yield
    except TimeoutError:
        if pair.cut is None or not call.expired():
            raise
        raise pair.cut from None
    finally:
        pair.calls.discard(call)


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
        tls = _TLS.search(said)
        why = f"TLS: {tls[1]}" if tls is not None else said.rpartition(": ")[2]  # the innermost cause
        return PeerUnreachable(peer, f"no connection ({why[:_SAID_CHARS]})")
    if code is grpc.StatusCode.UNKNOWN:
        return PeerUnreachable(peer, f"it failed while it answered: {said[:_SAID_CHARS]}")
    return PeerUnreachable(peer, said[:_SAID_CHARS] or code.name.lower())


def refusal_details(refused: PeerRefused) -> str:
    """A refusal as the details of a status: the reason, a colon, the sentence."""
    return f"{refused.reason}: {refused.said[:DETAIL_CHARS]}"


def _refused(peer: str, details: str) -> PeerRefused:
    reason, _, said = details.partition(": ")
    return PeerRefused(peer, reason_of(reason), one_line(said, DETAIL_CHARS))
