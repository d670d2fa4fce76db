"""Carrying messages between peers. Knows frames and addresses; knows no tensors, no strategies."""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from peerlearn.types import Address
from peerlearn.wire.frames import Message
from peerlearn.wire.partial_message import PartialMessage
from peerlearn.wire.v1 import fabric_pb2 as pb


class Credentials(Protocol):
    """Mutual TLS, as PEM: both ends show a certificate of the same authority, made out to `server_name`.

    Read anew for every connection, by any thread: they may be renewed meanwhile.
    """

    @property
    def authority(self) -> bytes:
        """Certificates that the other end's must lead to."""
        ...

    @property
    def certificate(self) -> bytes:
        """Our certificate, and those that lead to the authority."""
        ...

    @property
    def key(self) -> bytes:
        """The private key of our certificate."""
        ...

    @property
    def server_name(self) -> str:
        """The name that every member's certificate is made out to."""
        ...


_THIS_MACHINE = ("127.", "::1", "memory")


class Guard(Protocol):
    """Decides whose certificate counts now, beyond what the connection's TLS has decided when it was made."""

    def check(self, chain: Sequence[bytes], who: str) -> None:
        """Raises PeerRefused unless this certificate (DER, the first of the chain) is welcome."""
        ...


@dataclass(frozen=True, slots=True)
class Caller:
    """The peer that calls, as far as the connection itself tells."""

    host: str
    """The address that it is seen to call from."""
    certificates: tuple[bytes, ...] = ()
    """DER, as its end of the connection has shown and proved them, its own first; none without TLS."""
    connection: str = ""
    """Names the connection, to tell apart callers that share a machine."""

    @property
    def counted_as(self) -> str | bytes:
        """The key under which limits count this caller: its certificate; without TLS its machine, and on this machine
        its connection."""
        if self.certificates:
            return self.certificates[0]
        return self.connection or self.host if self.host.startswith(_THIS_MACHINE) else self.host


class Service(Protocol):
    """What a peer answers to others. Called on the event loop; must not block it.

    Raise PeerRefused to say no: the caller gets reason and sentence.
    """

    async def introduce(self, introduction: pb.Introduction, caller: Caller) -> pb.Introduction:
        """Our introduction, in answer to the caller's."""
        ...

    def watch(self, request: pb.WatchRequest, caller: Caller) -> AsyncIterator[pb.Notice]:
        """Notices about us, until the caller leaves or we do."""
        ...

    async def told(self, request: pb.WatchRequest, caller: Caller, notices: AsyncIterator[pb.Notice]) -> None:
        """Hear the notices that the watching peer sends upstream on the same call, until it stops watching. The
        iterator raises PeerUnreachable or WireError when the call breaks off."""
        ...

    async def admit(self, header: pb.Header, caller: Caller) -> Any:
        """Decide on a question's first frame, before any bulk flows and before anything is allocated for it.

        Returns whatever `answer` needs to know of the consumer.
        """
        ...

    async def answer(self, question: Message, admitted: Any) -> Message:
        """Answer a question that was admitted. `admitted`: what `admit` returned for it."""
        ...


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

    With a guard, the certificates of an introduction that comes back are those of the connection that it came over.
    `certificates` are the SHA-256 of certificates: only a holder of one of them may get the question or the request to
    watch, and answer it. A transport without TLS ignores them.
    """

    def serving(self, service: Service) -> AbstractAsyncContextManager[Address]:
        """Serve inside the block; yields the address bound. NetworkError when the port is taken."""
        ...

    async def introduce(self, to: Address, introduction: pb.Introduction) -> pb.Introduction:
        """Introduce ourselves; returns the introduction of the peer there."""
        ...

    async def reach(self, to: Address) -> None:
        """Returns when any program listens there."""
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

        `notices`: what to tell meanwhile, when the request `tells`.
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
