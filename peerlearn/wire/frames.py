"""Messages as frames and back, without I/O: what is sent in which order, and what is believed of what arrives.

A message is its header, then `body_bytes` in blocks, then a trailer when there is a body.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import xxhash

from peerlearn.config import MIB, Limits
from peerlearn.errors import Corrupt, Oversized, Truncated
from peerlearn.wire.buffer_pool import arenas
from peerlearn.wire.compress import Packer, codec_name, unpack
from peerlearn.wire.framing import WHOLE_BYTES, Block, Frame, parse, serialize
from peerlearn.wire.manifest import body_sections, check_header
from peerlearn.wire.v1 import fabric_pb2 as pb

__all__ = [
    "WHOLE_BYTES",
    "Assembler",
    "Block",
    "Frame",
    "Message",
    "blocks",
    "check_header",
    "parse",
    "serialize",
    "whole",
]

BLOCK_BYTES = MIB
"""Of a body in one frame, before compression."""


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """A header and its body: the parts, each contiguous bytes, concatenated are `header.body_bytes` bytes."""

    header: pb.Header
    body: tuple[memoryview, ...] = ()
    checked: Limits | None = None
    """The limits that its header was found to keep when it arrived."""


def blocks(message: Message, packer: Packer, *, start: int = 0, beside: bool = False) -> Iterator[Frame]:
    """The frames of a message, in order. Small tensors share a block; packed ones have blocks of their own.

    `start`: the bytes of the body that the receiver has already: the checksum covers them, they are not sent. `beside`:
    a short body stands beside its header, in one frame, as in every answer; a question's waits until it is agreed to.
    """
    header = message.header
    if beside and header.body_bytes <= WHOLE_BYTES:
        yield whole(message)
        return
    yield pb.Frame(header=header)
    if not header.body_bytes:
        return
    cursor, run = _Cursor(message.body), _Run()
    for size, width in body_sections(header):
        tensor = packer.tensor(size, width)
        if tensor is None and not start:  # most tensors: too small for a codec, and for a block of their own
            yield from run.add(cursor.take(size))
            continue
        for at in range(0, size, BLOCK_BYTES):
            parts = cursor.take(min(BLOCK_BYTES, size - at))
            if start:
                length = sum(map(len, parts))
                parts, start = _behind(parts, start), max(0, start - length)
                yield from run.add(parts)  # not packed: it need not begin where an element does
                continue
            packed = tensor.pack(parts) if tensor else None
            if packed is None:
                yield from run.add(parts)
            else:
                yield from run.rest()
                yield pb.Frame(packed=packed)
    yield from run.rest()
    yield pb.Frame(trailer=pb.Trailer(checksum=cursor.checksum.intdigest()))


def whole(message: Message) -> pb.Frame:
    """All of a message whose body has at most WHOLE_BYTES, in one frame."""
    if not message.header.body_bytes:
        return pb.Frame(header=message.header)
    return pb.Frame(header=message.header, whole=b"".join(message.body))


class Assembler:
    """Takes the frames of one message as they come, and gives the message when it is whole.

    The header is checked before anything is allocated; the body is allocated once, at its first block, and blocks are
    decoded straight into it. `feed` raises Oversized, Truncated, Corrupt or ForeignProtocol; after that, and after the
    message, the assembler is spent.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._codecs: dict[int, None] = {}
        self._header: pb.Header | None = None
        self._arena: memoryview | None = None
        self._filled = 0
        self._checksum = xxhash.xxh3_64()
        self._message: Message | None = None

    @property
    def header(self) -> pb.Header | None:
        """The header, checked, as soon as it has come."""
        return self._header

    @property
    def progress(self) -> str:
        """For people: how far the message has come."""
        if self._header is None:
            return "before its header"
        return f"after {self._filled} of {self._header.body_bytes} bytes"

    @property
    def codecs(self) -> str:
        """Codecs seen so far, joined by commas: "", "lz4", "lz4+shuffle4"."""
        return ",".join(codec_name(codec) for codec in self._codecs)

    def feed(self, frame: Frame) -> Message | None:
        """Take the next frame; returns the message when this was its last one."""
        if self._message is not None:
            raise Corrupt("a frame came after the end of the message")
        if isinstance(frame, Block):
            self._take_block(frame)
            return None
        kind = frame.WhichOneof("body")
        if kind == "header":
            return self._take_header(frame.header, frame.whole)
        if kind == "trailer":
            return self._take_trailer(frame.trailer)
        if kind != "packed":
            raise Corrupt(f"a frame of kind {kind or 'unknown'!r} came where the message should go on")
        self._take_packed(frame.packed)
        return None

    @property
    def filled(self) -> int:
        """Bytes of the body that have come."""
        return self._filled

    def go_on(self, header: pb.Header) -> None:
        """The same message comes again, from where it broke off. Raises Corrupt when it is not, or does not."""
        first = pb.Header()
        first.CopyFrom(header)
        first.ClearField("resumed_at")
        if self._message is not None or first != self._header or header.resumed_at != self._filled:
            at = header.resumed_at
            raise Corrupt(f"the answer goes on at byte {at} as another one than broke off {self.progress}")

    def finish(self) -> Message:
        """The stream has ended: the message, or Truncated when it was not whole."""
        if self._message is None:
            raise Truncated(f"the message ended {self.progress}")
        return self._message

    def _take_header(self, header: pb.Header, beside: bytes) -> Message | None:
        if self._header is not None:
            raise Corrupt("a second header came in one message")
        check_header(header, self._limits)
        if header.resumed_at:
            raise Corrupt(f"the message begins at byte {header.resumed_at}, which was not asked for")
        self._header = header
        if beside:
            if len(beside) != header.body_bytes:
                raise Corrupt(f"the header declares {header.body_bytes} bytes of body, {len(beside)} came with it")
            self._take_block(Block((memoryview(beside),)))
        if self._filled == header.body_bytes:
            self._message = Message(header, (self._arena,) if self._arena else (), checked=self._limits)
        return self._message

    def _take_block(self, block: Block) -> None:
        place = self._place(block.nbytes)
        at = 0
        for part in block.parts:
            place[at : at + len(part)] = part
            at += len(part)
        self._placed(place)

    def _take_packed(self, packed: pb.Packed) -> None:
        place = self._place(packed.raw_bytes)
        unpack(packed, place)
        self._codecs[packed.codec] = None
        self._placed(place)

    def _take_trailer(self, trailer: pb.Trailer) -> Message:
        if self._header is None or self._arena is None or self._filled < len(self._arena):
            raise Truncated(f"the trailer came {self.progress}")
        if trailer.checksum != self._checksum.intdigest():
            raise Corrupt(f"the checksum of {self._filled} bytes is wrong: they were changed on the way")
        self._message = Message(self._header, (self._arena,), checked=self._limits)
        return self._message

    def _place(self, nbytes: int) -> memoryview:
        if self._header is None:
            raise Corrupt("a block came before the header")
        if nbytes > self._limits.block_bytes:
            raise Oversized(f"a block has {nbytes} bytes, this peer takes at most {self._limits.block_bytes}")
        if not 0 < nbytes <= self._header.body_bytes - self._filled:
            raise Corrupt(f"a block of {nbytes} bytes came {self.progress}")
        if self._arena is None:
            self._arena = _allocate(self._header.body_bytes, self._limits)
        return self._arena[self._filled : self._filled + nbytes]

    def _placed(self, place: memoryview) -> None:
        self._checksum.update(place)
        self._filled += len(place)


_NOTHING = memoryview(b"")


class _Cursor:
    """Cuts a sequence of parts at any border, without copying; `checksum` is of what was taken."""

    def __init__(self, parts: Sequence[memoryview]) -> None:
        self.checksum = xxhash.xxh3_64()
        self._parts = iter(parts)
        self._rest = _NOTHING

    def take(self, nbytes: int) -> tuple[memoryview, ...]:
        if not nbytes:
            return ()
        if not len(self._rest):
            self._rest = next(self._parts)
        if len(self._rest) == nbytes:  # a tensor that is one part, the next one
            part, self._rest = self._rest, _NOTHING
            self.checksum.update(part)
            return (part,)
        taken = []
        while nbytes:
            if not len(self._rest):
                self._rest = next(self._parts)
            part, self._rest = self._rest[:nbytes], self._rest[nbytes:]
            nbytes -= len(part)
            self.checksum.update(part)
            taken.append(part)
        return tuple(taken)


class _Run:
    """Gathers plain parts until they make a full block."""

    def __init__(self) -> None:
        self._parts: list[memoryview] = []
        self._room = BLOCK_BYTES

    def add(self, parts: Sequence[memoryview]) -> Iterator[Block]:
        for part in parts:
            while len(part) >= self._room:
                self._parts.append(part[: self._room])
                part = part[self._room :]
                yield from self.rest()
            if len(part):
                self._parts.append(part)
                self._room -= len(part)

    def rest(self) -> Iterator[Block]:
        if self._parts:
            full, self._parts, self._room = Block(tuple(self._parts)), [], BLOCK_BYTES
            yield full


def _behind(parts: Sequence[memoryview], start: int) -> tuple[memoryview, ...]:
    """What is left of the parts without their first `start` bytes."""
    left = []
    for part in parts:
        if start < len(part):
            left.append(part[start:])
        start = max(0, start - len(part))
    return tuple(left)


def _allocate(nbytes: int, limits: Limits) -> memoryview:
    try:
        return arenas.take(nbytes, limits.body_bytes)
    except MemoryError as exc:
        raise Oversized(f"the peer sends {nbytes} bytes, more than this machine has memory for") from exc
