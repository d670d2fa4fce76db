"""What a peer says when it introduces itself, and what it believes of what others say."""

from collections.abc import Callable, Sequence
from functools import lru_cache

from peerlearn.bounded import Bounded
from peerlearn.config import Limits
from peerlearn.directory import START, Change, Directory
from peerlearn.discovery.base import Announcement, Hint
from peerlearn.discovery.interfaces import callable_from_afar
from peerlearn.errors import Corrupt, PeerRefused, RefusalReason
from peerlearn.membership.trust import Trust
from peerlearn.security import open_card
from peerlearn.security.group import hash_of
from peerlearn.types import PROTOCOL, Address, Card, PeerId
from peerlearn.wire.cards import address_from_pb, address_to_pb, is_peer_id
from peerlearn.wire.protocol import our_protocol
from peerlearn.wire.v1 import fabric_pb2 as pb

_HOSTS = 64
"""Hosts for which it is kept how acquaintances are named there; for others that is worked out anew each time."""

EXCHANGE = "exchange"


def announcement(peer: str, group_tag: str, port: int, *, group: str = "") -> Announcement:
    """What any machine on the LAN may see. The group's id and tag are hashed: only its members recognise them."""
    return Announcement(
        id_prefix=peer[:START], group_hash=hash_of(group, group_tag), port=port, protocol_major=PROTOCOL[0]
    )


class Introductions:
    """Writes our introductions and reads those of others. `card` gives our signed card as it is now; None: we are an
    observer."""

    def __init__(
        self,
        directory: Directory,
        *,
        group_tag: str,
        limits: Limits,
        card: Callable[[], pb.SignedCard] | None,
        trust: Trust | None = None,
    ) -> None:
        self._directory = directory
        self._group_tag = group_tag
        self._limits = limits
        self._card = card
        self._trust = trust
        self._acquaintances: Bounded[str, dict[PeerId, pb.Acquaintance | None]] = Bounded(_HOSTS)
        """By host: how each peer is named to callers from there; None: not at all."""
        directory.listen(self._heed)

    def _heed(self, change: Change) -> None:
        if change.what != "version":
            for known in self._acquaintances.values():
                known.pop(change.contact.id, None)

    def shown(self) -> bytes:
        """Which card we would show now, as its signature; nothing when we only look around."""
        return self._card().signature if self._card is not None else b""

    def greet(self, host: str) -> pb.Introduction:
        """Our half of an introduction to a peer at this host."""
        return pb.Introduction(
            protocol=our_protocol(),
            group_tag=self._group_tag,
            card=self._card() if self._card is not None else None,
            observed=host,
            known=self._known(host) if self._card is not None else (),
            revocations=self._trust.passport.revocations.signed if self._trust is not None else None,
        )

    def read(self, introduction: pb.Introduction, who: str, shown: Sequence[bytes]) -> Card | None:
        """The verified card of the peer that introduces itself; None for an observer. `shown`: the certificates of the
        connection that the introduction came over.

        Raises PeerRefused (PROTOCOL, GROUP, IDENTITY, REVOKED) and WireError.
        """
        protocol = (introduction.protocol.major, introduction.protocol.minor)
        if protocol[0] != PROTOCOL[0]:
            said = (
                f"it speaks version {protocol[0]}.{protocol[1]} of the protocol, this side {PROTOCOL[0]}.{PROTOCOL[1]}"
            )
            raise PeerRefused(who, RefusalReason.PROTOCOL, said)
        if introduction.group_tag != self._group_tag:
            theirs = introduction.group_tag[: self._limits.name_chars]
            raise PeerRefused(
                who, RefusalReason.GROUP, f"it is of group {theirs!r}, and this side of {self._group_tag!r}"
            )
        if self._trust is not None and introduction.HasField("revocations"):
            self._trust.learn(introduction.revocations, who)
        if not introduction.HasField("card"):
            return None
        card = open_card(introduction.card, self._limits)
        if self._trust is not None:
            self._trust.bind(card, shown, who)
        return card

    def others(self, introduction: pb.Introduction, host: str) -> list[Hint]:
        """Hints at peers that only the sender knows. Addresses that are malformed, or cannot be called from here, are
        passed over."""
        hints = []
        for known in introduction.known[: self._limits.acquaintances]:
            if self._directory.get(PeerId(known.id)) is not None:
                continue
            try:
                addresses = [address_from_pb(address) for address in known.addresses[: self._limits.addresses]]
            except Corrupt:
                continue
            addresses = callable_from_afar(addresses, host)
            if addresses and is_peer_id(known.id):
                hints.append(Hint(addresses=tuple(addresses), source=EXCHANGE, key=known.id, id_prefix=known.id))
        return hints

    def _known(self, host: str) -> list[pb.Acquaintance]:
        """The peers that mean something at this host. Each is named in the same words to all callers from there, until
        it changes."""
        known, told = self._acquaintances.setdefault(host, {}), []
        for contact in self._directory.alive()[: self._limits.acquaintances]:
            if contact.id not in known:
                listed = _abroad(contact.address, contact.card.addresses, host, self._limits.addresses)
                known[contact.id] = pb.Acquaintance(id=contact.id, addresses=listed) if listed else None
            if (acquaintance := known[contact.id]) is not None:
                told.append(acquaintance)
        return told


@lru_cache(maxsize=1024)  # the same few hundred for every peer that introduces itself
def _abroad(found: Address, said: tuple[Address, ...], host: str, most: int) -> tuple[pb.Address, ...]:
    """The addresses of a contact that can be called from `host`."""
    addresses = callable_from_afar(dict.fromkeys((found, *said)), host)
    # A scope names an interface of this machine and means nothing on another.
    return tuple(address_to_pb(address) for address in addresses if "%" not in address.host)[:most]
