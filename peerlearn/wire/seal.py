"""The checksum of what has no trailer: headers, introductions, requests to watch, notices.

It is the last field of the message, number 15, fixed64: xxh3-64 of all bytes before it. It finds accidents, not
enemies: those are kept out by signatures and TLS.
"""

import xxhash

from peerlearn.errors import Corrupt
from peerlearn.wire.v1 import fabric_pb2 as pb

Sealed = pb.Frame | pb.Introduction | pb.WatchRequest | pb.Notice

_TAG = 0x79  # field 15, fixed64
SEAL_BYTES = 9
"""What it takes, tag included."""


def sealed(data: bytes) -> bytes:
    """The bytes of a message with their checksum behind them."""
    return b"".join((data, bytes((_TAG,)), xxhash.xxh3_64_intdigest(data).to_bytes(8, "little")))


def check_seal(message: Sealed, data: bytes, what: str) -> None:
    """`message` is what `data` was read as; its checksum is taken off. Raises Corrupt unless the bytes end with it."""
    if len(data) < SEAL_BYTES or data[-SEAL_BYTES] != _TAG:
        raise Corrupt(f"{what} does not end with a checksum: it was changed or cut short on the way")
    digest = xxhash.xxh3_64_intdigest(memoryview(data)[:-SEAL_BYTES]).to_bytes(8, "little")
    if data[-8:] != digest:
        raise Corrupt(f"{what} has a wrong checksum: it was changed on the way")
    message.ClearField("check")
