"""The version of the wire protocol: what each one brought, how ours is said, and which of others is taken.

A major version is a protocol of its own: peers of different majors refuse each other. A minor version adds to it, and
peers of different minors work together: a receiver passes over fields and kinds that it does not know.

To add something in a new minor version: raise the minor of `types.PROTOCOL`, add a line to `BROUGHT`, and give the new
field or kind a number that was never used. What an older peer may pass over is simply sent. What it would fail on is
sent only to peers that read it: each Introduction, card, Header and Proceed carries its sender's version, and another
peer reads what came with minor n if `protocol.minor >= n` in what it sent last.
"""

from collections.abc import Mapping
from typing import Final

from peerlearn.errors import ForeignProtocol
from peerlearn.types import PROTOCOL
from peerlearn.wire.v1 import fabric_pb2 as pb

BROUGHT: Final[Mapping[tuple[int, int], tuple[str, ...]]] = {
    (1, 0): (
        "introductions with signed cards, acquaintances and lists of revocations",
        "watches by which both ends tell of themselves",
        "exchanges as streams, and of one frame each way as unary calls",
        "short bodies beside their header",
        "blocks packed by lz4, by a byte shuffle and lz4, or as a bitmap and the elements that are not zero",
        "tensors named by their digest, so that those held need not come again, and changes to those held",
        "answers that are resumed where they broke off",
        "a checksum at the end of headers, introductions, requests to watch and notices",
    ),
}
"""By version (major, minor): what it brought. The last one is `PROTOCOL`."""


def our_protocol() -> pb.Protocol:
    """The version that this release speaks, as it is said to others."""
    return pb.Protocol(major=PROTOCOL[0], minor=PROTOCOL[1])


def check_protocol(protocol: pb.Protocol) -> None:
    """Take any minor of our major version. Raises ForeignProtocol for another major."""
    if protocol.major != PROTOCOL[0]:
        raise ForeignProtocol(
            f"the peer speaks protocol {protocol.major}.{protocol.minor}, this one {PROTOCOL[0]}.{PROTOCOL[1]}: "
            "install the same release of peerlearn on both"
        )
