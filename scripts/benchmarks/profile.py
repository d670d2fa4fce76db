"""Where the time of one exchange goes: each part alone, in one process, over the same bytes."""

import time
from collections.abc import Awaitable, Callable

import numpy as np
import xxhash

from benchmarks import raw, raw_grpc
from benchmarks.payloads import live, make
from benchmarks.provider import LIMITS, encoded
from benchmarks.results import median
from peerlearn.config import MIB
from peerlearn.knowledge import Sparse
from peerlearn.wire.codec import decode_answer
from peerlearn.wire.compress import LinkEstimate, Packer
from peerlearn.wire.frames import Message, blocks, serialize
from peerlearn.wire.framing import Block

PARTS = (
    "encode", "cut and checksum", "frame", "bare gRPC", "first touch", "copy into place", "checksum", "decode",
    "copy into the model",
)  # fmt: skip
"""In the order in which a byte meets them. "bare gRPC" holds "frame" and "copy into place" of its own."""


async def parts(payload: str, times: int) -> dict[str, float]:
    """Milliseconds, medians of `times`. "bare gRPC": one process is both ends, so both share its interpreter."""
    knowledge = make(payload)
    model = live(knowledge)
    message = encoded(knowledge)
    body = memoryview(b"".join(message.body))
    place = raw.touched(len(body))
    arrived = Message(message.header, (memoryview(bytearray(body)),))

    def copy_into_model() -> None:
        for name, tensor in knowledge.tensors.items():
            if not isinstance(tensor, Sparse):
                model[name].copy_(tensor)

    async with raw_grpc.serving(lambda name: body) as ports:
        line = raw_grpc.BareLine(ports)
        work: dict[str, Callable[[], object]] = {
            "encode": lambda: encoded(knowledge),
            "cut and checksum": lambda: [None for _ in blocks(message, Packer(LinkEstimate(loopback=True)))],
            "frame": lambda: [None for at in range(0, len(body), MIB) if serialize(Block((body[at : at + MIB],)))],
            "first touch": lambda: _touch(len(body)),
            "copy into place": lambda: _copy(body, place),
            "checksum": lambda: _checksum(body),
            "decode": lambda: decode_answer(arrived, limits=LIMITS),
            "copy into the model": copy_into_model,
        }
        took = {name: median([_seconds(part) for _ in range(times)]) for name, part in work.items()}
        took["bare gRPC"] = median([await _awaited(lambda: line.blocks("", place)) for _ in range(times)])
        await line.close()
    return {name: 1e3 * took[name] for name in PARTS}


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


async def _awaited(work: Callable[[], Awaitable[object]]) -> float:
    start = time.perf_counter()
    await work()
    return time.perf_counter() - start


def _touch(nbytes: int) -> None:
    np.empty(nbytes, np.uint8)[::4096] = 1


def _copy(body: memoryview, place: memoryview) -> None:
    for at in range(0, len(body), MIB):
        place[at : at + MIB] = body[at : at + MIB]


def _checksum(body: memoryview) -> int:
    whole = xxhash.xxh3_64()
    for at in range(0, len(body), MIB):
        whole.update(body[at : at + MIB])
    return whole.intdigest()
