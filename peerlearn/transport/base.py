"""Carrying messages between peers. Knows frames and addresses; knows no tensors, no strategies."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from peerlearn.types import Address
from peerlearn.wire.frames import Message
from peerlearn.wire.v1 import fabric_pb2 as pb


class Service(Protocol):
    """What a peer answers to others. Called on the event loop; must not block it.

    `host` is where the caller is seen to come from. Raise PeerRefused to say no: the caller gets reason and sentence.
    """

    async def introduce(self, introduction: pb.Introduction, host: str) -> pb.Introduction: ...

    def watch(self, request: pb.WatchRequest, host: str) -> AsyncIterator[pb.Notice]: ...

    async def admit(self, header: pb.Header) -> None:
        """Decide on a question's first frame, before any bulk flows and before anything is allocated for it."""
        ...

    async def answer(self, question: Message) -> Message: ...


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


class Transport(Protocol):
    """One interface, two implementations (`grpc`, `memory`), one test suite.

    Every method raises PeerUnreachable (no connection, or no progress within the stall window), PeerRefused
    (the peer said no) or WireError (it sent something that is not a message); after any of these the transport
    goes on working. Cancelling a call ends it at both sides.
    """

    def serving(self, service: Service) -> AbstractAsyncContextManager[Address]:
        """Serve inside the block; yields the address bound. NetworkError when the port is taken."""
        ...

    async def introduce(self, to: Address, introduction: pb.Introduction) -> pb.Introduction: ...

    def watch(self, to: Address, request: pb.WatchRequest) -> AsyncGenerator[pb.Notice, None]:
        """Notices as they come; ends when the peer ends the stream. The caller judges silence."""
        ...

    async def exchange(self, to: Address, question: Message) -> tuple[Message, Traffic]: ...
