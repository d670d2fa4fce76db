"""What the notices of others change in the directory."""

from collections.abc import Callable

from peerlearn.clock import now
from peerlearn.directory import Contact, Directory
from peerlearn.errors import Corrupt
from peerlearn.membership.ourselves import Ourselves
from peerlearn.security import open_card
from peerlearn.text import one_line
from peerlearn.types import Card
from peerlearn.wire.v1 import fabric_pb2 as pb


class IncomingNotices:
    """Applies notices, each a sign of life of its sender, to the directory. `rebind` is told of a contact whose card
    names a certificate that its connection has not shown; `complained` of why a contact does not use our knowledge."""

    def __init__(
        self,
        me: Ourselves,
        directory: Directory,
        rebind: Callable[[Contact], None],
        complained: Callable[[Card, str], None],
    ) -> None:
        self._directory = directory
        self._limits = me.limits
        self._trust = me.trust
        self._rebind = rebind
        self._complained = complained

    def apply(self, contact: Contact, notice: pb.Notice, *, shown: bool) -> None:
        """Raises WireError for a notice that is not one.

        `shown`: it came from the contact's address, over a connection of ours. Else the contact told it by a call of
        its own, and whether it can be called is known from its card alone.
        """
        self._apply(contact, notice, shown=shown)
        after = self._directory.get(contact.id)
        if not shown and after is not None and contact.taken_back(after.card):
            self._directory.unreached(contact.id, contact.session)

    def _apply(self, contact: Contact, notice: pb.Notice, *, shown: bool) -> None:
        kind = notice.WhichOneof("body")
        if kind == "goodbye":
            why = one_line(notice.goodbye.reason, self._limits.name_chars)
            self._directory.goodbye(contact.id, contact.session, why)
            return
        if kind == "card":
            self._card(contact, notice.card, shown=shown)
        elif kind in ("version", "beat"):
            version = notice.version if kind == "version" else notice.beat.version
            self._directory.noticed_version(contact.id, contact.session, version)
        elif kind == "complaint":
            self._complained(contact.card, notice.complaint)
        elif kind == "revocations" and self._trust is not None:
            self._trust.learn(notice.revocations, str(contact.address))
        # A notice of a kind that a newer minor version brought is a sign of life too.
        self._directory.beat(contact.id, contact.session, now())

    def _card(self, contact: Contact, signed: pb.SignedCard, *, shown: bool) -> None:
        card = open_card(signed, self._limits)
        if (card.id, card.session) != (contact.id, contact.session):
            raise Corrupt(f"{contact.address} now speaks for {card.name} ({card.id[:12]}), another peer or session")
        current = self._directory.get(contact.id)
        if shown and current is not None and not current.reached:
            self._directory.confirm(card, contact.address, now(), reached=True)
        elif self._trust is None or card.certificate_sha256 in self._trust.certificates_of(contact.id):
            self._directory.card_changed(card)
        else:
            # It says that it has another certificate now: believed when a new connection has shown it.
            self._rebind(contact)
