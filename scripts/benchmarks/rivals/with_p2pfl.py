"""p2pfl: two processes with its gRPC protocol; one sends its weights by a command, the other decodes and copies them.

Both read the machine's monotonic clock: from before the encoding to after the copy.
"""

import json
import multiprocessing
import sys
import time
from importlib.metadata import version
from multiprocessing.connection import Connection

import numpy as np

SPAWN = multiprocessing.get_context("spawn")


def arrays_of(path: str) -> list[np.ndarray]:
    with np.load(path) as file:
        return [np.array(file[name]) for name in file.files]


def take(path: str, ends: Connection) -> None:
    from p2pfl.communication.commands.command import Command
    from p2pfl.communication.protocols.protobuff.grpc import GrpcCommunicationProtocol
    from p2pfl.learning.compression.manager import CompressionManager

    model = [np.zeros_like(array) for array in arrays_of(path)]

    class Weights(Command):
        @staticmethod
        def get_name() -> str:
            return "bench_weights"

        def execute(self, source: str, round: int, weights: bytes | None = None, **more: object) -> None:
            arrays, _ = CompressionManager.reverse(weights)
            for own, new in zip(model, arrays, strict=True):
                np.copyto(own, new)
            ends.send(time.monotonic())

    protocol = GrpcCommunicationProtocol([Weights()])
    protocol.set_addr("127.0.0.1")
    protocol.start()
    ends.send(protocol.get_address())
    ends.recv()  # until the other side has done
    protocol.stop()


def give(path: str, times: int, ends: Connection) -> list[float]:
    from p2pfl.communication.protocols.protobuff.grpc import GrpcCommunicationProtocol
    from p2pfl.learning.compression.manager import CompressionManager

    arrays = arrays_of(path)
    protocol = GrpcCommunicationProtocol()
    protocol.set_addr("127.0.0.1")
    protocol.start()
    other = ends.recv()
    protocol.connect(other)
    took = []
    for _ in range(times + 1):
        start = time.monotonic()
        serialized = CompressionManager.apply(arrays, {}, {})
        message = protocol.build_weights("bench_weights", 0, serialized, ["bench"], 1)
        protocol.send(other, message, raise_error=True)
        took.append(ends.recv() - start)
    protocol.stop()
    return took[1:]


def measured(path: str, times: int) -> list[float]:
    ours, theirs = SPAWN.Pipe()
    taker = SPAWN.Process(target=take, args=(path, theirs))
    taker.start()
    took = give(path, times, ours)
    ours.send("done")
    taker.join(20)
    taker.kill()
    return took


if __name__ == "__main__":
    repeats = int(sys.argv[3])
    told = {"version": version("p2pfl"), "big": measured(sys.argv[1], repeats), "tiny": measured(sys.argv[2], repeats)}
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
