"""Signed cards: a card is believed when the key whose fingerprint is its id has signed its bytes."""

from collections.abc import Sequence
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from peerlearn.config import Limits
from peerlearn.errors import Corrupt, Oversized, PeerRefused, RefusalReason
from peerlearn.security.identity import Identity, fingerprint
from peerlearn.types import Card
from peerlearn.wire.cards import card_to_pb, parse_card
from peerlearn.wire.v1 import fabric_pb2 as pb

_PUBLIC_KEY_BYTES = 32
_SIGNATURE_BYTES = 64
_REMEMBERED = 256
"""Cards: each comes by an introduction, its answer and a watch, byte for byte the same."""


def sign_card(identity: Identity, card: Card, certificates: Sequence[bytes] = ()) -> pb.SignedCard:
    """The card as it travels, with the certificate that it names (DER, and those above it). It must be the identity's
    own: ValueError otherwise."""
    if card.id != identity.id:
        raise ValueError(f"card of {card.id} cannot be signed by {identity.id}")
    data = card_to_pb(card).SerializeToString(deterministic=True)
    signature = identity.sign(data)
    return pb.SignedCard(card=data, public_key=identity.public_key, signature=signature, certificates=certificates)


def open_card(signed: pb.SignedCard, limits: Limits) -> Card:
    """The card inside, believed: signature first, then its bounds, then that it belongs to the key.

    Raises PeerRefused(IDENTITY) for a card that its id has not signed, WireError for one that is not a card.
    """
    if len(signed.card) > limits.card_bytes:
        raise Oversized(f"a card of {len(signed.card)} bytes; at most {limits.card_bytes} are taken")
    if len(signed.public_key) != _PUBLIC_KEY_BYTES or len(signed.signature) != _SIGNATURE_BYTES:
        raise Corrupt("a card without a whole key and signature")
    return _believed(signed.card, signed.public_key, signed.signature, limits)


@lru_cache(maxsize=_REMEMBERED)
def _believed(data: bytes, public_key: bytes, signature: bytes, limits: Limits) -> Card:
    """What is not believed is not remembered."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, data)
    except (InvalidSignature, ValueError) as exc:
        raise PeerRefused(
            fingerprint(public_key), RefusalReason.IDENTITY, "the card is not signed by the key that it names"
        ) from exc
    card = parse_card(data, limits)
    if card.id != fingerprint(public_key):
        raise PeerRefused(card.id, RefusalReason.IDENTITY, "the card is signed by a key that is not that of its id")
    return card
