"""Our own card: stamped with what the fabric knows of us, and signed when a peer is shown it."""

import secrets
from dataclasses import replace

from peerlearn.config import Limits
from peerlearn.discovery.interfaces import own_hosts
from peerlearn.errors import ConfigError, WireError
from peerlearn.membership.trust import Trust
from peerlearn.security import Identity, sign_card
from peerlearn.types import PROTOCOL, Address, Card
from peerlearn.wire.cards import card_from_pb, card_to_pb
from peerlearn.wire.v1 import fabric_pb2 as pb


class OwnCard:
    """`value` is the card as others see it; `listening` is where we listen."""

    def __init__(self, identity: Identity, *, group_tag: str, limits: Limits, trust: Trust | None) -> None:
        self._identity = identity
        self._group_tag = group_tag
        self._limits = limits
        self._trust = trust
        self._signed: pb.SignedCard | None = None
        self.value = Card(id=identity.id, name=identity.id[:12], session=secrets.token_hex(16))
        self.version = 0
        """Of our latest snapshot: ahead of the card's until the card is shown again."""
        self.listening = Address("", 0)

    def become(self, card: Card) -> None:
        """Serial, addresses, group, protocol and certificate are set here. Raises ConfigError for a card that others
        would not take."""
        if card.id != self._identity.id:
            raise ConfigError(f"a card of {card.id[:12]} cannot be that of the peer {self._identity.id[:12]}")
        self.version = max(self.version, card.version)
        self.value = replace(
            card,
            serial=self.value.serial + 1,
            group_tag=self._group_tag,
            protocol=PROTOCOL,
            addresses=self._addresses(),
            version=self.version,
            certificate_sha256=self._trust.passport.fingerprint if self._trust is not None else b"",
        )
        self._signed = None
        try:
            card_from_pb(card_to_pb(self.value), self._limits)
        except WireError as exc:
            raise ConfigError(f"others would not take this peer's card: {exc}") from exc

    @property
    def is_elsewhere(self) -> bool:
        """Whether this machine's addresses are others now than the card says."""
        return self._addresses() != self.value.addresses

    def signed(self) -> pb.SignedCard:
        """As it is now; signed again only when it has changed since."""
        if self._signed is None or self.value.version < self.version:
            if self.value.version < self.version:
                self.value = replace(self.value, serial=self.value.serial + 1, version=self.version)
            chain = self._trust.passport.chain if self._trust is not None else ()
            self._signed = sign_card(self._identity, self.value, chain)
        return self._signed

    def _addresses(self) -> tuple[Address, ...]:
        hosts = own_hosts(self.listening.host) if self.listening.port else []
        return tuple(Address(host, self.listening.port) for host in hosts)[: self._limits.addresses]
