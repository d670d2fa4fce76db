"""Cards on the wire: the public record of a peer to protobuf and back, every bound checked before use."""

import math
import re
from functools import lru_cache
from typing import Final

from google.protobuf.message import DecodeError

from peerlearn.config import Limits
from peerlearn.errors import Corrupt, Oversized
from peerlearn.types import Address, Card, Exposure, Layer, PeerId, PublicSet
from peerlearn.wire.v1 import fabric_pb2 as pb

_ID: Final = re.compile(r"[0-9a-f]{32}")
_SESSION: Final = re.compile(r"[0-9A-Za-z_-]{1,64}")
_HOST: Final = re.compile(r"[0-9A-Za-z._:%-]{1,255}")
_METRICS: Final = 64
_PUBLIC_SETS: Final = 64
_EXPOSURES: Final = 64
"""At most so many on a card: several times what any strategy has, and little beside `limits.card_bytes`."""

_CERTIFICATE_BYTES: Final = 32
"""Of a certificate's SHA-256."""

_KNOWN_EXPOSURES: Final = frozenset(str(exposure) for exposure in Exposure)


def is_peer_id(text: str) -> bool:
    """Whether this is the fingerprint of a key: 32 lower-case hex digits."""
    return _ID.fullmatch(text) is not None


def is_session(text: str) -> bool:
    """Whether this can be the name of a session: 1 to 64 letters, digits, `_` or `-`."""
    return _SESSION.fullmatch(text) is not None


def address_to_pb(address: Address) -> pb.Address:
    """The address as a message."""
    return pb.Address(host=address.host, port=address.port)


def address_from_pb(message: pb.Address) -> Address:
    """Raises Corrupt for a host that is not one, or a port that cannot be listened on."""
    return _address(message.host, message.port)


@lru_cache(maxsize=4096)  # peers that know one another all name the same few hundred addresses
def _address(host: str, port: int) -> Address:
    if not _HOST.fullmatch(host) or not 1 <= port <= 65535:
        raise Corrupt(f"{host[:64]!r} port {port} is not an address")
    return Address(host, port)


def card_to_pb(card: Card) -> pb.Card:
    """The card as a message. Metrics that are not finite are left out, because they cannot be compared."""
    message = pb.Card(
        id=card.id,
        name=card.name,
        session=card.session,
        serial=card.serial,
        group_tag=card.group_tag,
        protocol=pb.Protocol(major=card.protocol[0], minor=card.protocol[1]),
        software=card.software,
        addresses=[address_to_pb(address) for address in card.addresses],
        task=card.task,
        classes=card.classes,
        histogram=card.histogram,
        architecture=card.architecture,
        start=card.start,
        layers=[pb.Layer(name=layer.name, kind=layer.kind, shape=layer.shape) for layer in card.layers],
        strategy=card.strategy,
        exposes=sorted(card.exposes),
        public_sets=[pb.PublicSet(name=s.name, fingerprint=s.fingerprint, length=s.length) for s in card.public_sets],
        version=card.version,
        learns_from=card.learns_from,
        certificate_sha256=card.certificate_sha256,
    )
    for name, value in card.metrics.items():
        if math.isfinite(value):
            message.metrics[name] = value
    return message


def parse_card(data: bytes, limits: Limits) -> Card:
    """Read the bytes of a card. Raises Oversized before parsing, Corrupt for bytes that are no card."""
    if len(data) > limits.card_bytes:
        raise Oversized(f"a card of {len(data)} bytes; at most {limits.card_bytes} are taken")
    message = pb.Card()
    try:
        message.ParseFromString(data)
    except DecodeError as exc:
        raise Corrupt("a card that is not one: its bytes do not parse") from exc
    return card_from_pb(message, limits)


def card_from_pb(message: pb.Card, limits: Limits) -> Card:
    """Check every field and make a Card of it; exposures that this version does not know are left out.

    Raises Oversized when more is listed than `limits` takes, and Corrupt for a value that cannot be.
    """
    _count(message, limits)
    _texts(message, limits)
    if not is_peer_id(message.id):
        raise Corrupt(f"{message.id[:64]!r} is not the id of a peer: 32 hex digits are")
    if not is_session(message.session):
        raise Corrupt(f"{message.session[:64]!r} is not a session")
    if message.histogram and len(message.histogram) != message.classes:
        raise Corrupt(f"a histogram of {len(message.histogram)} counts for {message.classes} classes")
    if len(message.certificate_sha256) not in (0, _CERTIFICATE_BYTES):
        raise Corrupt(f"a certificate fingerprint of {len(message.certificate_sha256)} bytes")
    if not all(math.isfinite(value) for value in message.metrics.values()):
        raise Corrupt("a metric that is not a finite number")
    if not all(is_peer_id(peer) for peer in message.learns_from):
        raise Corrupt("learns from somebody whose id is not one")
    return _made(message, limits)


def _made(message: pb.Card, limits: Limits) -> Card:
    return Card(
        id=PeerId(message.id),
        name=message.name,
        session=message.session,
        serial=message.serial,
        group_tag=message.group_tag,
        protocol=(message.protocol.major, message.protocol.minor),
        software=message.software,
        addresses=tuple(address_from_pb(address) for address in message.addresses),
        task=message.task,
        classes=message.classes,
        histogram=tuple(message.histogram),
        architecture=message.architecture,
        start=message.start,
        layers=tuple(_layer(layer, limits) for layer in message.layers),
        strategy=message.strategy,
        exposes=frozenset(Exposure(name) for name in message.exposes if name in _KNOWN_EXPOSURES),
        public_sets=tuple(PublicSet(s.name, s.fingerprint, s.length) for s in message.public_sets),
        version=message.version,
        learns_from=tuple(PeerId(peer) for peer in message.learns_from),
        metrics=dict(message.metrics),
        certificate_sha256=message.certificate_sha256,
    )


def _layer(message: pb.Layer, limits: Limits) -> Layer:
    if len(message.shape) > limits.dims:
        raise Oversized(f"layer {message.name[:64]!r} has {len(message.shape)} dimensions; at most {limits.dims}")
    return Layer(message.name, message.kind, tuple(message.shape))


def _count(message: pb.Card, limits: Limits) -> None:
    for what, have, most in (
        ("addresses", len(message.addresses), limits.addresses),
        ("classes", message.classes, limits.classes),
        ("counts in its histogram", len(message.histogram), limits.classes),
        ("layers", len(message.layers), limits.layers),
        ("exposures", len(message.exposes), _EXPOSURES),
        ("public sets", len(message.public_sets), _PUBLIC_SETS),
        ("peers that it learns from", len(message.learns_from), limits.peers),
        ("metrics", len(message.metrics), _METRICS),
    ):
        if have > most:
            raise Oversized(f"a card with {have} {what}; at most {most} are taken")


def _texts(message: pb.Card, limits: Limits) -> None:
    texts = [
        message.name,
        message.group_tag,
        message.software,
        message.task,
        message.architecture,
        message.start,
        message.strategy,
        *message.exposes,
        *message.metrics,
    ]
    for layer in message.layers:
        texts += (layer.name, layer.kind)
    for public in message.public_sets:
        texts += (public.name, public.fingerprint)
    for text in texts:
        if len(text) > limits.name_chars:
            raise Oversized(f"a name of {len(text)} characters in a card; at most {limits.name_chars} are taken")
        # A name is printed in terminals and logs: no escape sequences, no line breaks, no reversed writing.
        if not text.isprintable():
            raise Corrupt(f"a name with characters that cannot be printed in a card: {text[:32]!r}")
    if not message.name:
        raise Corrupt("a card without a name")
