"""Carrying messages between peers. Knows frames and addresses; knows no tensors, no strategies."""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from peerlearn.types import Address
from peerlearn.wire.frames import Message
from peerlearn.wire.partial_message import PartialMessage
from peerlearn.wire.v1 import fabric_pb2 as pb


class Credentials(Protocol):
    """Mutual TLS, as PEM: both ends show a certificate of the same authority, made out to `server_name`.

    Read anew for every connection, by any thread: they may be renewed meanwhile.
    """

    @property
    def authority(self) -> bytes: ...
    @property
    def certificate(self) -> bytes: ...
    @property
    def key(self) -> bytes: ...
    @property
    def server_name(self) -> str: ...


_THIS_MACHINE = ("127.", "::1", "memory")


class Guard(Protocol):
    """Decides whose certificate counts now, beyond what the connection's TLS has decided when it was made."""

    def check(self, chain: Sequence[bytes], who: str) -> None:
        """Raises PeerRefused unless this certificate (DER, the first of the chain) is welcome."""
        ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as far as the connection itself tells."""

    host: str
    """Where it is seen to come from."""
    certificates: tuple[bytes, ...] = ()
    """DER, as its end of the connection has shown and proved them, its own first; none without TLS."""
    connection: str = ""
    """Which one; tells callers apart that share a machine."""

    @property
    def counted_as(self) -> str | bytes:
        """Who is counted as one: a certificate; without TLS a machine, and on this machine a connection."""
        if self.certificates:
            return self.certificates[0]
        return self.connection or self.host if self.host.startswith(_THIS_MACHINE) else self.host


class Service(Protocol):
    """What a peer answers to others. Called on the event loop; must not block it.

    Raise PeerRefused to say no: the caller gets reason and sentence.
    """

    async def introduce(self, introduction: pb.Introduction, caller: Caller) -> pb.Introduction: ...

    def watch(self, request: pb.WatchRequest, caller: Caller) -> AsyncIterator[pb.Notice]: ...

    async def told(self, request: pb.WatchRequest, caller: Caller, notices: AsyncIterator[pb.Notice]) -> None:
        """What whoever watches `tells` by the same call, as long as it watches. The iterator raises PeerUnreachable or
        WireError when it breaks off."""
        ...

    async def admit(self, header: pb.Header, caller: Caller) -> None:
        """Decide on a question's first frame, before any bulk flows and before anything is allocated for it."""
        ...

    async def answer(self, question: Message, caller: Caller) -> Message: ...


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one exchange moved. Wire bytes are of blocks and headers as framed, below HTTP/2."""

    sent_bytes: int = 0
    received_bytes: int = 0
    body_bytes: int = 0
    """Of the answer's body before compression: body_bytes / received_bytes is the codec's ratio."""
    seconds: float = 0.0
    codec: str = ""
    """Codecs seen in the answer: "", "lz4", "lz4+shuffle4", joined by commas."""

    def __add__(self, before: "Traffic") -> "Traffic":
        """With what an attempt before it has moved, which brought no answer."""
        return replace(
            self,
            sent_bytes=self.sent_bytes + before.sent_bytes,
            received_bytes=self.received_bytes + before.received_bytes,
            seconds=self.seconds + before.seconds,
        )


class Transport(Protocol):
    """One interface, two implementations (`grpc`, `memory`), one test suite.

    Every method raises PeerUnreachable (no connection, or no progress within the stall window), PeerRefused
    (the peer said no) or WireError (it sent something that is not a message); after any of these the transport
    goes on working. Cancelling a call ends it at both sides.

    With a guard, the certificates of an introduction that comes back are those of the connection that it came over;
    and `certificates`, SHA-256 of each, are whose holder alone may take what is asked or watched, and answer it. A
    transport without TLS pays no heed to them.
    """

    def serving(self, service: Service) -> AbstractAsyncContextManager[Address]:
        """Serve inside the block; yields the address bound. NetworkError when the port is taken."""
        ...

    async def introduce(self, to: Address, introduction: pb.Introduction) -> pb.Introduction: ...

    async def reach(self, to: Address) -> None:
        """Returns when somebody listens there, whoever it is."""
        ...

    def watch(
        self,
        to: Address,
        request: pb.WatchRequest,
        *,
        notices: AsyncIterator[pb.Notice] | None = None,
        certificates: Collection[bytes] = (),
    ) -> AsyncGenerator[pb.Notice, None]:
        """Notices as they come; ends when the peer ends the stream. The caller judges silence.

        `notices`: what to tell meanwhile, when the request `tells`; to those only who speak 1.2.
        """
        ...

    async def exchange(
        self,
        to: Address,
        question: Message,
        *,
        into: PartialMessage | None = None,
        certificates: Collection[bytes] = (),
    ) -> tuple[Message, Traffic]:
        """Send a question and return its answer with what the exchange moved.

        `into`: the receive buffer. What it already holds of the answer is not sent again; when the exchange breaks off,
        what has arrived stays in it for the next attempt. None: an attempt of its own.
        """
        ...
