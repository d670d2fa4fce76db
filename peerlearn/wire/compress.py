"""Compressing blocks of a message where it makes the exchange end sooner, and never elsewhere.

What needs numpy is imported by those who come to need it: to load it takes longer than everything else here together.
"""

import ipaddress
import time
from collections.abc import Callable, Sequence

import lz4.block

from peerlearn.errors import Corrupt
from peerlearn.wire.v1 import fabric_pb2 as pb

Codec = pb.Packed.Codec

GIGABIT = 125e6
"""Bytes per second of the link that is assumed where none was measured."""

PROBE_EVERY = 16
"""Blocks of a tensor between two looks at whether its codec still pays."""

PROBE_BYTES = 64 * 1024
"""Looked at by one probe: lz4's own window, so a longer sample would say no more."""

GLANCE_BYTES = 4096
"""Looked at first where only data that all but vanish are worth it: what does not shrink to half there is no such."""

TINY = 4096
"""Bytes below which a tensor is never compressed: a frame of its own costs more than the bytes it saves."""

_WIDTH: dict[int, int] = {
    pb.Packed.LZ4: 1,
    pb.Packed.SHUFFLE2_LZ4: 2,
    pb.Packed.SHUFFLE4_LZ4: 4,
    pb.Packed.SHUFFLE8_LZ4: 8,
}
_SHUFFLED = {width: codec for codec, width in _WIDTH.items() if width > 1}
_MASK_WIDTH: dict[int, int] = {pb.Packed.MASK2: 2, pb.Packed.MASK4: 4, pb.Packed.MASK8: 8}
_MASKED = {width: codec for codec, width in _MASK_WIDTH.items()}
# Bytes per second, of one core at the other side: unpacking ReLU maps, measured (the slow end of each codec).
_UNPACK_RATE: dict[int, float] = {
    **{codec: 2.0e9 if width == 1 else 0.8e9 for codec, width in _WIDTH.items()},
    **dict.fromkeys(_MASK_WIDTH, 2.0e9),
}


def codec_name(codec: int) -> str:
    """As people read it: "lz4", "lz4+shuffle4", "mask4"."""
    if codec in _MASK_WIDTH:
        return f"mask{_MASK_WIDTH[codec]}"
    width = _WIDTH[codec]
    return "lz4" if width == 1 else f"lz4+shuffle{width}"


class LinkEstimate:
    """How fast the way to a peer is, in bytes per second on the wire, as far as it is known."""

    __slots__ = ("_measured", "loopback", "rate")

    def __init__(self, *, loopback: bool = False, rate: float = GIGABIT) -> None:
        self.loopback = loopback
        self.rate = rate
        self._measured = False

    @classmethod
    def to(cls, host: str) -> "LinkEstimate":
        """The link to a host of which nothing but the name is known."""
        try:
            return cls(loopback=ipaddress.ip_address(host.partition("%")[0]).is_loopback)
        except ValueError:
            return cls(loopback=host in ("localhost", "memory"))

    def moved(self, nbytes: int, seconds: float) -> None:
        """Learn from a transfer: `nbytes` kept the link busy for `seconds`."""
        if nbytes <= 0 or seconds <= 0:
            return
        rate = nbytes / seconds
        self.rate = (self.rate + rate) / 2 if self._measured else rate
        self._measured = True

    def pays(self, ratio: float, pack_rate: float, unpack_rate: float) -> bool:
        """Whether sending `ratio` of the bytes ends sooner, given the rates of both ends.

        On loopback no codec keeps up with the link unless the data all but vanish.
        """
        if ratio >= 0.95:
            return False
        if self.loopback:
            return ratio < 0.1
        return min(pack_rate, unpack_rate, self.rate / ratio) >= 1.1 * self.rate


class Packer:
    """Decides for one message, tensor by tensor, which blocks travel compressed. One thread at a time."""

    def __init__(self, link: LinkEstimate, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._link = link
        self._clock = clock

    @property
    def works_hard(self) -> bool:
        """Whether packing may take milliseconds per block: then it belongs off the event loop."""
        return not self._link.loopback

    def tensor(self, nbytes: int, width: int) -> "TensorPacker | None":
        """For a run of `nbytes` of elements of `width` bytes; None when it is not worth looking at."""
        return TensorPacker(self._link, self._clock, width) if nbytes >= TINY else None


class TensorPacker:
    """Packs the blocks of one tensor; probes the first of them and every 16th later."""

    def __init__(self, link: LinkEstimate, clock: Callable[[], float], width: int) -> None:
        self._link = link
        self._clock = clock
        self._candidates: list[int] = [pb.Packed.LZ4]
        if width in _SHUFFLED and not link.loopback:  # shuffling makes sparse data larger, and loopback packs no other
            self._candidates += (_SHUFFLED[width], _MASKED[width])
        self._codec: int | None = None
        self._rate = 0.0
        self._blocks = 0

    def pack(self, parts: Sequence[memoryview]) -> pb.Packed | None:
        """The block that `parts` make up, compressed; None when it should travel as it is."""
        if self._blocks % PROBE_EVERY == 0:
            self._codec = self._probe(_joined(parts, PROBE_BYTES))
        self._blocks += 1
        if self._codec is None:
            return None
        raw = _joined(parts)
        start = self._clock()
        data = compress(self._codec, raw)
        took = max(self._clock() - start, 1e-9)
        self._rate = (self._rate + len(raw) / took) / 2  # a machine that is busy packs slower than the probe did
        if not self._link.pays(len(data) / len(raw), self._rate, _UNPACK_RATE[self._codec]):
            self._codec = None
            return None
        return pb.Packed(codec=self._codec, raw_bytes=len(raw), data=data)  # type: ignore[arg-type]

    def _probe(self, sample: memoryview) -> int | None:
        best, least = None, 1.0
        if self._link.loopback and len(compress(pb.Packed.LZ4, sample[:GLANCE_BYTES])) > GLANCE_BYTES // 2:
            return None
        for codec in self._candidates:
            start = self._clock()
            ratio = len(compress(codec, sample)) / len(sample)
            rate = len(sample) / max(self._clock() - start, 1e-9)
            if ratio < least and self._link.pays(ratio, rate, _UNPACK_RATE[codec]):
                best, least, self._rate = codec, ratio, rate
        return best


def compress(codec: int, raw: memoryview) -> bytes:
    """One block, whose length must be a multiple of the codec's element width."""
    if codec in _MASK_WIDTH:
        from peerlearn.wire import bitmap

        return bitmap.pack(raw, _MASK_WIDTH[codec])
    if (width := _WIDTH[codec]) > 1:
        from peerlearn.wire.byte_shuffle import shuffle

        raw = shuffle(raw, width)
    packed: bytes = lz4.block.compress(raw, store_size=False)
    return packed


def unpack(packed: pb.Packed, into: memoryview) -> None:
    """Decompress into exactly `into`, whose length was checked against the limits. Raises Corrupt."""
    width = _WIDTH.get(packed.codec) or _MASK_WIDTH.get(packed.codec)
    if width is None:
        raise Corrupt(f"a block is packed with codec {packed.codec}, which this peer does not know")
    if packed.raw_bytes != len(into) or len(into) == 0 or len(into) % width:
        raise Corrupt(f"a packed block of {packed.raw_bytes} bytes does not fit its codec or its place of {len(into)}")
    if packed.codec in _MASK_WIDTH:
        from peerlearn.wire import bitmap

        bitmap.unpack(packed.data, into, width)
        return
    try:
        raw = lz4.block.decompress(packed.data, uncompressed_size=len(into))
    except lz4.block.LZ4BlockError as exc:
        raise Corrupt("a packed block cannot be decompressed") from exc
    if len(raw) != len(into):
        raise Corrupt(f"a packed block holds {len(raw)} bytes where {len(into)} were declared")
    if width == 1:
        into[:] = raw
    else:
        from peerlearn.wire.byte_shuffle import unshuffle

        unshuffle(raw, into, width)


def _joined(parts: Sequence[memoryview], most: int | None = None) -> memoryview:
    if len(parts) == 1:
        return parts[0][:most]
    return memoryview(b"".join(parts))[:most]
