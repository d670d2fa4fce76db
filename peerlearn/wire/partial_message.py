"""An answer that broke off, kept by the consumer so that the next attempt goes on where it stopped."""

from peerlearn.config import Limits
from peerlearn.errors import Corrupt
from peerlearn.wire.frames import Assembler
from peerlearn.wire.v1 import fabric_pb2 as pb


class PartialMessage:
    """What has come of an answer that broke off, for the next attempt at the same question.

    Belongs to the consumer, which decides how long to keep it and passes it to `Transport.exchange(into=...)`.
    """

    def __init__(self) -> None:
        self._answer: Assembler | None = None
        self._promised = b""
        self.received = 0
        """Bytes on the wire of the attempts that broke off."""
        self.silent = False
        """Whether the last one ended by silence, rather than by a connection that was lost."""

    @property
    def resume(self) -> pb.Resume | None:
        """What to ask the provider for; None when there is nothing to resume."""
        header = self._answer.header if self._answer is not None else None
        if self._answer is None or header is None or not header.answer or not self._answer.filled:
            return pb.Resume(answer=self._promised) if self._promised else None
        return pb.Resume(answer=header.answer, at=self._answer.filled)

    def promise(self, name: bytes) -> None:
        """Nothing of the answer has come; the provider keeps all of it under this name."""
        self._answer, self._promised = None, name

    @property
    def nbytes(self) -> int:
        """Memory that is kept."""
        header = self._answer.header if self._answer is not None else None
        return header.body_bytes if header is not None else 0

    def take(self, first: pb.Frame, limits: Limits) -> Assembler:
        """The assembler for the frames after this first one of an answer. Raises Corrupt when it is the rest of another
        answer."""
        if first.header.resumed_at:
            if self._answer is None:
                raise Corrupt("the answer goes on at a byte that was not asked for")
            self._answer.go_on(first.header)
        else:
            self._answer, self._promised = Assembler(limits), b""
            self._answer.feed(first)
        return self._answer

    def drop(self) -> None:
        """The answer is whole, or worth nothing."""
        self._answer, self._promised = None, b""
