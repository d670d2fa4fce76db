"""Dispatch of calls from others, whatever carried them: bounded, parsed, counted, then given to the peer's service."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import TypeVar

from google.protobuf.message import DecodeError

from peerlearn.bounded import Bounded
from peerlearn.config import Limits, Timing
from peerlearn.errors import Corrupt, KnowledgeError, Oversized, PeerRefused, RefusalReason, WireError
from peerlearn.tasks import background
from peerlearn.transport.base import Caller, Service
from peerlearn.transport.exchange.fair_queue import FairQueue
from peerlearn.transport.exchange.protocol import Pipe, refusal_frame, refusal_of, reply
from peerlearn.transport.exchange.resume import ResumableAnswers
from peerlearn.transport.exchange.unary import reply_unary
from peerlearn.wire.compress import LinkEstimate
from peerlearn.wire.frames import serialize
from peerlearn.wire.protocol import check_protocol
from peerlearn.wire.seal import check_seal, sealed
from peerlearn.wire.v1 import fabric_pb2 as pb

_ACQUAINTANCE_BYTES = 1024
"""Of one peer named in an introduction: its id and 16 addresses take half of it."""

_REQUEST_BYTES = 4096
"""Of a request to watch, which holds an id and a session, and of what surrounds a card in a notice."""

_CHAIN_BYTES = 32 * 1024
"""Of certificates and links."""

T = TypeVar("T")
M = TypeVar("M", pb.Introduction, pb.WatchRequest, pb.Notice)


class Dispatcher:
    """Serves one peer. Every refusal leaves as PeerRefused, or as an answer's only frame."""

    def __init__(self, service: Service, timing: Timing, limits: Limits, links: "LinkEstimates") -> None:
        self._service = service
        self._timing = timing
        self._limits = limits
        self._link_estimates = links
        self._resumable = ResumableAnswers(limits.resumable_bytes)
        self._turns = FairQueue(limits)
        self._held = 0
        self._watches = 0

    async def exchange(self, pipe: Pipe, caller: Caller) -> None:
        """Raises PeerUnreachable when the consumer stalls."""
        try:
            link = self._link_estimates.to(caller.host)
            with self._turns.exchange(caller) as turn, self._holding() as take:
                await reply(
                    pipe, self._service, take, caller=caller, timing=self._timing, limits=self._limits, link=link,
                    resumable=self._resumable, turn=turn,
                )  # fmt: skip
        except PeerRefused as refused:
            await pipe.write(serialize(refusal_frame(refused.reason, refused.said)))

    async def unary_exchange(self, data: bytes, caller: Caller) -> bytes:
        """The same for a question of one frame, answered by one frame."""
        try:
            with self._turns.exchange(caller), self._holding() as take:
                return await reply_unary(
                    data, self._service, take, caller=caller, limits=self._limits, resumable=self._resumable
                )
        except PeerRefused as refused:
            return serialize(refusal_frame(refused.reason, refused.said))

    @property
    def under_way(self) -> tuple[int, int]:
        """Exchanges that are being served, and the bytes that their questions bring."""
        return self._turns.under_way, self._held

    @contextmanager
    def _holding(self) -> Iterator[Callable[[int], None]]:
        """Inside the block, a way to take memory for what a question brings; raises PeerRefused(BUSY) for too much."""
        mine = 0

        def take(nbytes: int) -> None:
            nonlocal mine
            if self._held + nbytes > self._limits.held_bytes:
                busy = f"questions under way bring {self._held} bytes already: try again later"
                raise PeerRefused("", RefusalReason.BUSY, busy)
            mine += nbytes
            self._held += nbytes

        try:
            yield take
        finally:
            self._held -= mine

    async def introduce(self, data: bytes, caller: Caller) -> bytes:
        """The service's introduction, in answer to the caller's."""
        with _refusing(caller.host):
            introduction = read_introduction(data, self._limits)
            return sealed((await self._service.introduce(introduction, caller)).SerializeToString())

    async def watch(
        self, data: bytes, caller: Caller, more: AsyncIterator[bytes] | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The service's notices. `more`: the messages that the caller sends after its request."""
        if self._watches >= self._limits.watches:
            raise PeerRefused(caller.host, RefusalReason.BUSY, f"{self._watches} peers watch already: try again later")
        self._watches += 1
        try:
            with _refusing(caller.host):
                request = _read(pb.WatchRequest, data, _REQUEST_BYTES, "a watch request")
                async with _closing(self._service.watch(request, caller)) as notices, background() as tasks:
                    if request.tells and more is not None:
                        tasks.start(self._hear(request, caller, more), name=f"told:{request.id[:12]}")
                    async for notice in notices:
                        yield sealed(notice.SerializeToString())
        finally:
            self._watches -= 1

    async def _hear(self, request: pb.WatchRequest, caller: Caller, more: AsyncIterator[bytes]) -> None:
        async with aclosing(self._told(more)) as notices:
            await self._service.told(request, caller, notices)

    async def _told(self, more: AsyncIterator[bytes]) -> AsyncGenerator[pb.Notice, None]:
        async for data in more:
            request = _read(pb.WatchRequest, data, _notice_bytes(self._limits), "a notice")
            if not request.HasField("notice"):
                raise Corrupt("a second request to watch came in one call")
            yield request.notice


class LinkEstimates:
    """How fast the way to each host is, as far as it is known; the host used longest ago is forgotten first."""

    MOST = 1024
    """Hosts: four times the peers that a directory holds by default, some of which are known by several addresses."""

    def __init__(self) -> None:
        self._by_host: Bounded[str, LinkEstimate] = Bounded(self.MOST)

    def to(self, host: str) -> LinkEstimate:
        """The estimate for this host, which both directions of its exchanges read and improve."""
        link = self._by_host.get(host)
        if link is None:
            link = self._by_host[host] = LinkEstimate.to(host)
        else:
            self._by_host.touch(host)
        return link


def read_introduction(data: bytes, limits: Limits) -> pb.Introduction:
    """Raises Oversized, Corrupt or ForeignProtocol."""
    most = limits.card_bytes + limits.acquaintances * _ACQUAINTANCE_BYTES
    trust = limits.revocation_bytes + _CHAIN_BYTES
    introduction = _read(pb.Introduction, data, most + trust, "an introduction")
    if len(data) - introduction.revocations.ByteSize() - sum(map(len, introduction.card.certificates)) > most:
        raise Oversized(f"an introduction has {len(data)} bytes, of which at most {most} may be card and peers known")
    check_protocol(introduction.protocol)
    return introduction


def read_notice(data: bytes, limits: Limits) -> pb.Notice:
    """Raises Oversized or Corrupt."""
    return _read(pb.Notice, data, _notice_bytes(limits), "a notice")


def _notice_bytes(limits: Limits) -> int:
    return max(limits.card_bytes, limits.revocation_bytes) + _REQUEST_BYTES + _CHAIN_BYTES


def _read(kind: type[M], data: bytes, most: int, what: str) -> M:
    if len(data) > most:
        raise Oversized(f"{what} has {len(data)} bytes, this peer takes at most {most}: raise its Limits to take more")
    try:
        message = kind.FromString(data)
    except DecodeError as exc:
        raise Corrupt(f"{what} is not a protobuf message") from exc
    check_seal(message, data, what)
    return message


@contextmanager
def _refusing(host: str) -> Iterator[None]:
    try:
        yield
    except (WireError, KnowledgeError) as error:
        raise PeerRefused(host, *refusal_of(error)) from error


@asynccontextmanager
async def _closing(stream: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    try:
        yield stream
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()
