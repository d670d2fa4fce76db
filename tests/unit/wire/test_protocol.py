"""The version of the protocol: the table agrees with it, and which versions of others are taken."""

import pytest

from peerlearn.errors import ForeignProtocol
from peerlearn.types import PROTOCOL, Card, PeerId
from peerlearn.wire.protocol import BROUGHT, check_protocol, our_protocol
from peerlearn.wire.v1 import fabric_pb2 as pb


def test_the_table_has_every_minor_of_our_major_and_ends_with_our_version() -> None:
    major, minor = PROTOCOL
    assert list(BROUGHT) == [(major, earlier) for earlier in range(minor + 1)]
    assert all(brought and all(brought) for brought in BROUGHT.values())


def test_our_version_is_what_we_say_in_messages_and_on_cards() -> None:
    said = our_protocol()
    assert (said.major, said.minor) == PROTOCOL == Card(id=PeerId("0" * 32), name="a", session="s").protocol


@pytest.mark.parametrize("minor", [0, 1, 7, 2**32 - 1])
def test_any_minor_of_our_major_is_taken(minor: int) -> None:
    check_protocol(pb.Protocol(major=PROTOCOL[0], minor=minor))


@pytest.mark.parametrize("foreign", [(0, 0), (0, 9), (PROTOCOL[0] + 1, 0)])
def test_another_major_is_refused_with_both_versions_and_what_to_do(foreign: tuple[int, int]) -> None:
    theirs, ours = (f"{major}.{minor}" for major, minor in (foreign, PROTOCOL))
    with pytest.raises(ForeignProtocol, match=f"speaks protocol {theirs}, this one {ours}: install the same release"):
        check_protocol(pb.Protocol(major=foreign[0], minor=foreign[1]))
