"""A card with every field."""

from peerlearn.security import Identity
from peerlearn.types import Card
from peerlearn.wire.cards import card_to_pb
from peerlearn.wire.v1 import fabric_pb2 as pb

ME = Identity.ephemeral()


def plain(**changes: object) -> pb.Card:
    message = card_to_pb(Card(id=ME.id, name="amber", session="s1", classes=2, histogram=(1, 2)))
    for name, value in changes.items():
        field = getattr(message, name)
        if hasattr(field, "extend"):
            del field[:]
            field.extend(value)
        else:
            setattr(message, name, value)
    return message
