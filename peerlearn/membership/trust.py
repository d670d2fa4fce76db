"""Trust: which certificates belong to which peer of a group, and which peers the group has shut out."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from peerlearn.directory import Contact, Directory
from peerlearn.errors import Corrupt, PeerRefused, RefusalReason
from peerlearn.security.authority import fingerprint_of
from peerlearn.security.passport import Passport
from peerlearn.transport.base import Caller
from peerlearn.types import Card, PeerId
from peerlearn.wire.v1 import fabric_pb2 as pb

_KEPT = 2
"""Certificates accepted from one peer: the one in its card, and the one before, for calls that are still under way."""


@dataclass(frozen=True, slots=True)
class Bond:
    """A session of a peer and the certificates that its cards have named, newest first."""

    session: str
    certificates: tuple[bytes, ...]


class Trust:
    """Binds cards, sessions and connections together. `recheck` ends the calls of peers that are no longer let in.
    Lives on the event loop."""

    def __init__(self, passport: Passport, *, recheck: Callable[[], None]) -> None:
        self.passport = passport
        self.group = passport.group.id
        self._recheck = recheck
        self._bonds: dict[PeerId, Bond] = {}
        self._heard: Callable[[], None] = _nothing

    def listen(self, heard: Callable[[], None]) -> None:
        """Call `heard` whenever a newer list of revocations has come."""
        self._heard = heard

    # ---------------------------------------------------------------- what others show

    def bind(self, card: Card, shown: Sequence[bytes], who: str) -> None:
        """Raises PeerRefused unless the card names the certificate that its connection shows, or if the group has shut
        out the card's peer or the certificate. `shown`: the certificate chain, DER. `who`: the peer, for messages."""
        if not shown or card.certificate_sha256 != fingerprint_of(shown[0]):
            said = "the card is not that of this connection: it names another certificate"
            raise PeerRefused(who, RefusalReason.IDENTITY, said)
        self.passport.check(shown, who)
        try:
            self.passport.check_peer(card.id, who)
        except PeerRefused:
            self.passport.shut((card.certificate_sha256,))
            self._recheck()
            raise

    def vouch(self, caller: Caller, peer: PeerId, session: str) -> None:
        """Raises PeerRefused(IDENTITY) unless the caller's connection is that of this peer in this session."""
        bond = self._bonds.get(peer)
        shown = fingerprint_of(caller.certificates[0]) if caller.certificates else b""
        if bond is None or bond.session != session or shown not in bond.certificates:
            said = f"this connection is not that of {peer[:12]}: it shows another certificate than its card names"
            raise PeerRefused(caller.host, RefusalReason.IDENTITY, said)

    def certificates_of(self, peer: PeerId) -> tuple[bytes, ...]:
        """SHA-256 of the certificates that this peer's connection may show; empty if the peer is not here."""
        bond = self._bonds.get(peer)
        return bond.certificates if bond is not None else ()

    def follow(self, contact: Contact) -> None:
        """Update the bond of a contact that has changed."""
        if not contact.here:
            self._bonds.pop(contact.id, None)
            return
        named, bond = contact.card.certificate_sha256, self._bonds.get(contact.id)
        if bond is None or bond.session != contact.session:
            self._bonds[contact.id] = Bond(contact.session, (named,))
        elif bond.certificates[0] != named:
            self._bonds[contact.id] = Bond(contact.session, (named, *bond.certificates)[:_KEPT])

    # ---------------------------------------------------------------- who is shut out

    def learn(self, signed: pb.SignedRevocations, who: str) -> None:
        """Take a list of revocations from another peer. Raises PeerRefused if the group has not signed it."""
        try:
            newer = self.passport.learn(signed)
        except Corrupt as exc:
            raise PeerRefused(who, RefusalReason.IDENTITY, str(exc)) from exc
        if newer:
            self._heard()

    def enforce(self, directory: Directory) -> None:
        """Drop the peers that are shut out from the directory, and end the calls with them."""
        for contact in directory.here():
            if (why := self._why_not(contact)) is not None:
                directory.goodbye(contact.id, contact.session, why)
        self._recheck()

    async def keep_up(self, beat: float, renewed: Callable[[], None]) -> None:
        """Once per beat, until cancelled: notice a renewed certificate or newer revocations on this machine, and
        certificates that have expired. `renewed` is called after a renewal."""
        while True:
            await asyncio.sleep(beat)
            news = self.passport.refresh()
            if news.renewed:
                renewed()
            if news.revoked:
                self._heard()
            self._recheck()

    def _why_not(self, contact: Contact) -> str | None:
        certificates = self.certificates_of(contact.id)
        if contact.id in self.passport.revocations.peers:
            self.passport.shut(certificates)
            return "revoked by the group"
        if self.passport.revocations.certificates.intersection(certificates):
            return "its certificate was revoked by the group"
        return None


def _nothing() -> None:
    return None
