"""Knowledge to messages and back, beside torch.save and torch.load. No network."""

import io
import time

import torch

from benchmarks.payloads import make
from benchmarks.provider import LIMITS, encoded
from peerlearn.wire.codec import decode_answer
from peerlearn.wire.compress import LinkEstimate, Packer
from peerlearn.wire.frames import Message, blocks, serialize
from peerlearn.wire.framing import parse
from peerlearn.wire.v1 import fabric_pb2 as pb


def beside_torch(payload: str, times: int) -> dict[str, list[float]]:
    """Seconds: `ours`, tensors to header and memoryviews and back; `framed`, the same with the cutting into frames,
    which copies every byte once; `torch`, save to memory and load. In turn."""
    knowledge = make(payload)
    took: dict[str, list[float]] = {"ours": [], "framed": [], "torch": []}
    for _ in range(times):
        start = time.perf_counter()
        message = encoded(knowledge)
        header = pb.Header.FromString(message.header.SerializeToString())
        decode_answer(Message(header, message.body), limits=LIMITS)
        middle = time.perf_counter()
        took["ours"].append(middle - start)
        for frame in blocks(message, Packer(LinkEstimate(loopback=True))):
            parse(serialize(frame), LIMITS)
        took["framed"].append(time.perf_counter() - start)
        start = time.perf_counter()
        file = io.BytesIO()
        torch.save(dict(knowledge.tensors), file)
        file.seek(0)
        torch.load(file, weights_only=True)  # noqa: TID251  the rival, on bytes of our own making
        took["torch"].append(time.perf_counter() - start)
    return took
