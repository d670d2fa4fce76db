"""One end of an exchange in a process of its own, without learning: `provider HOST`, or `consumer HOST:PORT SECONDS`.

The provider answers a question with as many bytes as its sender's name says, and beats every 20 ms. The consumer takes
a large answer, and says how late beats were that came meanwhile, in seconds, as JSON.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import numpy as np

from peerlearn.config import MIB, Limits, Timing
from peerlearn.tasks import background
from peerlearn.transport.base import Caller
from peerlearn.transport.grpc.transport import GrpcTransport
from peerlearn.types import PROTOCOL, Address
from peerlearn.wire.frames import Message
from peerlearn.wire.v1 import fabric_pb2 as pb

PROTO = pb.Protocol(major=PROTOCOL[0], minor=PROTOCOL[1])
PATIENT = Timing(base=60, stall=60)
ROOMY = Limits(body_bytes=512 * MIB, calls=10_000)
BULK = 100_000_000


def question(nbytes: int) -> Message:
    return Message(pb.Header(protocol=PROTO, sender=str(nbytes), query=pb.Query(want="params")))


class Provider:
    def __init__(self) -> None:
        self._answers: dict[int, Message] = {}

    async def introduce(self, introduction: pb.Introduction, caller: Caller) -> pb.Introduction:
        return pb.Introduction(protocol=PROTO)

    async def told(self, request: pb.WatchRequest, caller: Caller, notices: object) -> None:
        raise AssertionError("nobody watches here who tells")

    async def watch(self, request: pb.WatchRequest, caller: Caller) -> AsyncGenerator[pb.Notice, None]:
        while True:  # one machine, one monotonic clock
            yield pb.Notice(beat=pb.Beat(count=round(time.monotonic() * 1e3)))
            await asyncio.sleep(0.02)

    async def admit(self, header: pb.Header, caller: Caller) -> Caller:
        return caller

    async def answer(self, asked: Message, caller: Caller) -> Message:
        nbytes = int(asked.header.sender)
        if nbytes not in self._answers:
            header = pb.Header(protocol=PROTO, sender="provider", body_bytes=nbytes)
            header.knowledge.params.architecture = "a"
            header.tensors.add(name="w", dtype="uint8", shape=[nbytes], stored=nbytes)
            body = np.random.default_rng(0).integers(0, 256, nbytes, np.uint8)  # lz4 makes nothing of it
            self._answers[nbytes] = Message(header, (body.data,))
        return self._answers[nbytes]


async def provide(host: str) -> None:
    async with GrpcTransport(Address(host, 0), timing=PATIENT, limits=ROOMY).serving(Provider()) as address:
        print(address.port, flush=True)
        await asyncio.Event().wait()


async def consume(at: Address, seconds: float) -> None:
    late: list[float] = []
    async with GrpcTransport(timing=PATIENT, limits=ROOMY) as transport, background() as tasks:
        tasks.start(_bulk(transport, at), name="bulk")
        async with aclosing(transport.watch(at, pb.WatchRequest())) as notices:
            end = time.monotonic() + seconds
            async for notice in notices:
                late.append(time.monotonic() - notice.beat.count / 1e3)
                if time.monotonic() > end:
                    break
    print(json.dumps(late), flush=True)


async def _bulk(transport: GrpcTransport, at: Address) -> None:
    await transport.exchange(at, question(BULK))


if __name__ == "__main__":
    if sys.argv[1] == "provider":
        asyncio.run(provide(sys.argv[2]))
    else:
        asyncio.run(consume(Address.parse(sys.argv[2]), float(sys.argv[3])))
