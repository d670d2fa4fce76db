"""Blocks with many zeros as a bitmap and the elements that are not zero: what rectifiers leave.

By positions, not by boolean indexing: where zeros stand at random that is four times as fast.
"""

import numpy as np
from numpy.typing import NDArray

from peerlearn.errors import Corrupt


def pack(raw: memoryview, width: int) -> bytes:
    """A block of whole elements. Zero is what has no bit set: -0.0 and NaN come back as they are."""
    elements = _elements(raw, width)
    there = elements != 0
    return bytes(np.packbits(there, bitorder="little").tobytes() + elements.take(np.flatnonzero(there)).tobytes())


def unpack(data: bytes, into: memoryview, width: int) -> None:
    """Into exactly `into`, a multiple of `width` long. Raises Corrupt."""
    elements = _elements(into, width)
    bits = (elements.size + 7) // 8
    if len(data) < bits:
        raise Corrupt(f"a masked block of {len(data)} bytes is shorter than its mask")
    marks = np.unpackbits(np.frombuffer(data, np.uint8, bits), bitorder="little")
    there = marks[: elements.size].view(np.bool_)
    amount = int(np.count_nonzero(marks))
    if amount != np.count_nonzero(there) or len(data) != bits + amount * width:
        raise Corrupt(f"a masked block marks {amount} of {elements.size} elements and brings {len(data) - bits} bytes")
    elements[:] = 0
    elements[np.flatnonzero(there)] = np.frombuffer(data, elements.dtype, offset=bits)


def _elements(raw: memoryview, width: int) -> "NDArray[np.unsignedinteger]":
    return np.frombuffer(raw, f"<u{width}")
