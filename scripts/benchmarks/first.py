"""A program that starts, asks a peer once, and ends: how long that takes is measured by the one who starts it.

Or, `bare`: one that does the same with gRPC and nothing of ours.
"""

import time

_BEGAN = time.perf_counter()


def main(address: str, payload: str) -> None:
    """Without torch: the answer stays a message. All imports are on the clock."""
    import asyncio
    import json

    from peerlearn.transport.grpc.transport import GrpcTransport
    from peerlearn.types import Address
    from peerlearn.wire.frames import Message
    from peerlearn.wire.protocol import our_protocol
    from peerlearn.wire.v1 import fabric_pb2 as pb

    async def ask() -> int:
        query = pb.Query(want="params", select=json.dumps({"payload": payload}).encode())
        header = pb.Header(protocol=our_protocol(), sender="1" * 32, session="bench", strategy="bench", query=query)
        async with GrpcTransport() as transport:
            answer, _ = await transport.exchange(Address.parse(address), Message(header))
        return answer.header.body_bytes

    _tell(asyncio.run(ask()))


def bare(address: str, payload: str) -> None:
    import asyncio
    from typing import Any

    import grpc.aio

    async def ask() -> int:
        async with grpc.aio.insecure_channel(address) as channel:
            blocks: Any = channel.unary_stream("/bench.Bare/Blocks")
            return sum([len(block) async for block in blocks(payload.encode())])

    _tell(asyncio.run(ask()))


def _tell(body_bytes: int) -> None:
    import json
    import sys

    told = {"body_bytes": body_bytes, "seconds": time.perf_counter() - _BEGAN, "torch": "torch" in sys.modules}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    import sys

    (bare if sys.argv[1:2] == ["bare"] else main)(*sys.argv[-2:])
