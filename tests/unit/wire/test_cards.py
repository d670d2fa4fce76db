"""Cards to the wire and back; and what is refused of what strangers send."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerlearn.config import Limits
from peerlearn.errors import Corrupt, Oversized, PeerRefused, RefusalReason, WireError
from peerlearn.security import Identity, fingerprint, open_card, sign_card
from peerlearn.types import Address, Card, Exposure, Layer, PeerId, PublicSet
from peerlearn.wire.cards import card_from_pb, card_to_pb, parse_card
from peerlearn.wire.v1 import fabric_pb2 as pb
from tests.support.cards import ME, plain

LIMITS = Limits()

names = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=20)
counts = st.integers(0, 2**63)
ids = st.text("0123456789abcdef", min_size=32, max_size=32).map(PeerId)


@st.composite
def cards(draw: st.DrawFn) -> Card:
    classes = draw(st.integers(0, 12))
    return Card(
        id=ME.id,
        name=draw(names),
        session=draw(st.text("abc019_-", min_size=1, max_size=64)),
        serial=draw(counts),
        group_tag=draw(names),
        protocol=(draw(st.integers(0, 9)), draw(st.integers(0, 9))),
        software=draw(names),
        addresses=tuple(Address(host, port) for host, port in draw(st.lists(hosts, max_size=5))),
        task=draw(names),
        classes=classes,
        histogram=tuple(draw(st.lists(counts, min_size=classes, max_size=classes))),
        architecture=draw(names),
        start=draw(names),
        layers=tuple(
            draw(st.lists(st.builds(Layer, names, names, st.lists(counts, max_size=4).map(tuple)), max_size=4))
        ),
        strategy=draw(names),
        exposes=draw(st.frozensets(st.sampled_from(Exposure))),
        public_sets=tuple(draw(st.lists(st.builds(PublicSet, names, names, counts), max_size=3))),
        version=draw(counts),
        learns_from=tuple(draw(st.lists(ids, max_size=4))),
        metrics=draw(st.dictionaries(names, st.floats(allow_nan=False, allow_infinity=False), max_size=4)),
        certificate_sha256=draw(st.sampled_from([b"", bytes(32)])),
    )


hosts = st.tuples(st.sampled_from(["127.0.0.1", "fe80::1%eth0", "::1", "a-host.local"]), st.integers(1, 65535))


@settings(max_examples=60, deadline=None)
@given(cards())
def test_a_signed_card_comes_back_as_it_was(card: Card) -> None:
    assert open_card(sign_card(ME, card), LIMITS) == card


@settings(max_examples=60, deadline=None)
@given(cards(), st.data())
def test_no_changed_byte_goes_unnoticed(card: Card, data: st.DataObject) -> None:
    signed = sign_card(ME, card)
    at = data.draw(st.integers(0, len(signed.card) - 1))
    bent = bytearray(signed.card)
    bent[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(PeerRefused) as refused:
        open_card(pb.SignedCard(card=bytes(bent), public_key=signed.public_key, signature=signed.signature), LIMITS)
    assert refused.value.reason is RefusalReason.IDENTITY


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_card_or_a_typed_error(data: bytes) -> None:
    try:
        parse_card(data, LIMITS)
    except WireError:
        return


@pytest.mark.parametrize(
    ("error", "changes"),
    [
        (Corrupt, {"id": ""}),
        (Corrupt, {"id": "A" * 32}),
        (Corrupt, {"id": "a" * 31}),
        (Corrupt, {"session": ""}),
        (Corrupt, {"session": "a b"}),
        (Corrupt, {"name": ""}),
        (Corrupt, {"name": "red\x1b[31m"}),
        (Corrupt, {"name": "two\nlines"}),
        (Corrupt, {"histogram": [1]}),
        (Corrupt, {"learns_from": ["nobody"]}),
        (Corrupt, {"certificate_sha256": b"short"}),
        (Corrupt, {"addresses": [pb.Address(host="127.0.0.1", port=0)]}),
        (Corrupt, {"addresses": [pb.Address(host="127.0.0.1", port=70000)]}),
        (Corrupt, {"addresses": [pb.Address(host="a host", port=1)]}),
        (Corrupt, {"addresses": [pb.Address(host="dns:///x", port=1)]}),
        (Oversized, {"name": "x" * 257}),
        (Oversized, {"classes": 100_001, "histogram": []}),
        (Oversized, {"addresses": [pb.Address(host="127.0.0.1", port=1)] * 17}),
        (Oversized, {"layers": [pb.Layer(name="a")] * 4097}),
        (Oversized, {"layers": [pb.Layer(name="a", shape=[1] * 9)]}),
        (Oversized, {"layers": [pb.Layer(name="a" * 300)]}),
        (Oversized, {"exposes": ["x"] * 65}),
        (Oversized, {"public_sets": [pb.PublicSet(name="x")] * 65}),
    ],
)
def test_what_cannot_be_is_refused(error: type[WireError], changes: dict[str, object]) -> None:
    assert card_from_pb(plain(), LIMITS).name == "amber"
    with pytest.raises(error):
        card_from_pb(plain(**changes), LIMITS)


def test_metrics_are_bounded_and_finite() -> None:
    message = plain()
    message.metrics["loss"] = math.inf
    with pytest.raises(Corrupt, match="finite"):
        card_from_pb(message, LIMITS)
    crowd = plain()
    for n in range(65):
        crowd.metrics[f"m{n}"] = 1.0
    with pytest.raises(Oversized, match="metrics"):
        card_from_pb(crowd, LIMITS)


def test_our_own_metrics_that_are_not_finite_stay_at_home() -> None:
    card = Card(id=ME.id, name="a", session="s", metrics={"loss": math.nan, "shared": 0.5})
    assert open_card(sign_card(ME, card), LIMITS).metrics == {"shared": 0.5}


def test_exposures_of_a_newer_version_are_ignored() -> None:
    card = card_from_pb(plain(exposes=["params.full", "params.dreams"]), LIMITS)
    assert card.exposes == {Exposure.PARAMS_FULL}


def test_a_card_too_long_is_refused_before_it_is_parsed() -> None:
    small = replace(LIMITS, card_bytes=100)
    with pytest.raises(Oversized):
        parse_card(b"\xff" * 101, small)
    with pytest.raises(Oversized):
        open_card(pb.SignedCard(card=b"\xff" * 101, public_key=bytes(32), signature=bytes(64)), small)


def test_a_key_cannot_sign_for_another_id() -> None:
    other = Identity.ephemeral()
    data = card_to_pb(Card(id=ME.id, name="a", session="s")).SerializeToString()
    with pytest.raises(PeerRefused) as refused:
        open_card(pb.SignedCard(card=data, public_key=other.public_key, signature=other.sign(data)), LIMITS)
    assert refused.value.reason is RefusalReason.IDENTITY
    with pytest.raises(ValueError, match="cannot be signed"):
        sign_card(other, Card(id=ME.id, name="a", session="s"))
    assert fingerprint(other.public_key) == other.id != ME.id


@pytest.mark.parametrize(
    ("key", "signature"), [(b"", bytes(64)), (bytes(31), bytes(64)), (bytes(32), b""), (bytes(32), bytes(65))]
)
def test_keys_and_signatures_of_another_length_are_corrupt(key: bytes, signature: bytes) -> None:
    with pytest.raises(Corrupt):
        open_card(pb.SignedCard(card=b"", public_key=key, signature=signature), LIMITS)
