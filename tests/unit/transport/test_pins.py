"""Pins: which certificate each address has proved, for how long, and of how many addresses."""

import ssl
from collections.abc import Sequence
from hashlib import sha256

import pytest

from peerlearn.errors import PeerRefused, PeerUnreachable, RefusalReason
from peerlearn.transport.grpc.pins import Pins
from peerlearn.types import Address

ONE, TWO, THREE, FOUR = (Address("10.0.0.1", port) for port in (1, 2, 3, 4))
AMBER, BIRCH = (b"amber's certificate", b"authority"), (b"birch's certificate", b"authority")


class Without:
    """A guard that lets in all but this one."""

    def __init__(self, unwelcome: bytes) -> None:
        self.unwelcome = unwelcome

    def check(self, chain: Sequence[bytes], who: str) -> None:
        if chain[0] == self.unwelcome:
            raise PeerRefused(who, RefusalReason.REVOKED, "revoked")


def test_an_address_is_held_by_the_certificate_that_was_proved_there_last() -> None:
    pins = Pins(8)
    pins.put(ONE, AMBER)
    assert pins.holds(ONE, AMBER[:1])
    assert not pins.holds(ONE, BIRCH)
    assert not pins.holds(ONE, ())
    assert pins.roots(ONE) == ssl.DER_cert_to_PEM_cert(AMBER[0]).encode()
    assert pins.roots(ONE, {sha256(AMBER[0]).digest()}) == pins.roots(ONE)
    with pytest.raises(PeerUnreachable, match="another peer is there now"):
        pins.roots(ONE, {sha256(BIRCH[0]).digest()})
    pins.put(ONE, BIRCH)
    assert pins.holds(ONE, BIRCH)
    assert not pins.holds(ONE, AMBER)


def test_an_address_that_is_forgotten_has_proved_nothing() -> None:
    pins = Pins(8)
    pins.put(ONE, AMBER)
    pins.forget(ONE)
    pins.forget(TWO)
    assert ONE not in pins
    assert not pins.holds(ONE, AMBER)
    with pytest.raises(PeerUnreachable, match="has to be introduced first"):
        pins.roots(ONE)


def test_of_ever_new_addresses_only_so_many_are_held() -> None:
    pins = Pins(3)
    for port in range(1, 1000):
        pins.put(Address("10.0.0.1", port), AMBER)
    assert [Address("10.0.0.1", port) in pins for port in (995, 996, 997, 998, 999)] == [False, False, True, True, True]


@pytest.mark.parametrize("used", ["introduced again", "called"])
def test_the_address_used_longest_ago_is_forgotten_first(used: str) -> None:
    pins = Pins(3)
    for address in (ONE, TWO, THREE):
        pins.put(address, AMBER)
    if used == "called":
        pins.roots(ONE)
    else:
        assert pins.holds(ONE, AMBER)
    pins.put(FOUR, BIRCH)
    assert [address in pins for address in (ONE, TWO, THREE, FOUR)] == [True, False, True, True]


def test_those_whom_the_guard_no_longer_lets_in_are_named_and_forgotten() -> None:
    pins = Pins(8)
    for address, chain in ((ONE, AMBER), (TWO, BIRCH), (THREE, AMBER)):
        pins.put(address, chain)
    found = pins.unwelcome(Without(AMBER[0]))
    assert [(address, refused.reason) for address, refused in found] == [
        (ONE, RefusalReason.REVOKED), (THREE, RefusalReason.REVOKED),
    ]  # fmt: skip
    assert [address in pins for address in (ONE, TWO, THREE)] == [False, True, False]
    assert pins.unwelcome(Without(AMBER[0])) == []
