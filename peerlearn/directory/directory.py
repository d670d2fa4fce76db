"""Directory: a state machine of the known peers. No clock, no tasks, no network: the time is passed with each fact."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from peerlearn.config import Limits, Timing
from peerlearn.directory.contacts import START, Change, Contact, Liveness
from peerlearn.errors import ConfigError, PeerRefused, RefusalReason
from peerlearn.suggest import did_you_mean
from peerlearn.text import listed
from peerlearn.types import Address, Card, PeerId

Listener = Callable[[Change], None]

_NAMED_MOST = 20
"""Names that a message lists: with more it would fill a terminal."""


class Directory:
    """At most `limits.peers` contacts, iterated in id order, so that no result depends on the order of arrival.

    `own`: the id of the peer that keeps the directory, which is never in it; "" for an observer. Times are seconds on
    one clock of the caller. Lives on the event loop.
    """

    def __init__(self, own: PeerId, *, group_tag: str, timing: Timing, limits: Limits) -> None:
        self._own = own
        self._group_tag = group_tag
        self._timing = timing
        self._limits = limits
        self._contacts: dict[PeerId, Contact] = {}
        self._by_start: dict[str, list[PeerId]] = {}
        self._listeners: list[Listener] = []

    # ---------------------------------------------------------------- who is here

    def __iter__(self) -> Iterator[Contact]:
        """All remembered contacts in id order, including those that are gone."""
        return iter([self._contacts[peer] for peer in sorted(self._contacts)])

    def __len__(self) -> int:
        return len(self._contacts)

    def alive(self) -> list[Contact]:
        """Contacts that can be asked for knowledge now (alive and reached), in id order."""
        return [contact for contact in self if contact.alive and contact.reached]

    def here(self) -> list[Contact]:
        """Contacts that are alive or suspect, reached or not, in id order."""
        return [contact for contact in self if contact.here]

    def get(self, peer: PeerId) -> Contact | None:
        """The contact of this peer if it is alive or suspect; None if it is unknown or gone."""
        contact = self._contacts.get(peer)
        return contact if contact is not None and contact.here else None

    def expected(self, id_prefix: str) -> Contact | None:
        """A contact, alive or suspect, whose id has this prefix; None if there is none or the prefix is empty."""
        if not id_prefix:
            return None
        if len(id_prefix) == 32:  # a whole id: no search
            return self.get(PeerId(id_prefix))
        some = self._by_start.get(id_prefix[:START], ()) if len(id_prefix) >= START else self._contacts
        return next((here for peer in some if peer.startswith(id_prefix) and (here := self.get(peer))), None)

    def find(self, text: str) -> Contact:
        """The one contact with this name, or whose id starts so. Raises ConfigError if there is none (it suggests a
        similar name) or more than one (it lists them)."""
        everybody = list(self)
        found = [contact for contact in everybody if contact.name == text]
        found = found or [contact for contact in everybody if text and contact.id.startswith(text.lower())]
        found = [contact for contact in found if contact.here] or found
        if len(found) == 1:
            return found[0]
        if found:
            several = ", ".join(f"{contact.name} ({contact.id[:12]})" for contact in found)
            raise ConfigError(f"{text!r} is the name of {len(found)} peers: {several}; give more of the id")
        names = sorted({contact.name for contact in everybody})
        hint = did_you_mean(text, names) or f"; here are: {listed(names[:_NAMED_MOST], empty='nobody')}"
        raise ConfigError(f"no peer is called {text!r}, and no id begins so{hint}")

    # ---------------------------------------------------------------- facts

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` after every change; listeners are called in the order in which they were added, and must not
        block. Returns a function that removes it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def confirm(self, card: Card, address: Address, now: float, *, reached: bool, why: str = "") -> Contact:
        """Enter a peer whose verified card has just arrived. `reached`: this side called it successfully at `address`.

        A known peer is recognised by its id, whatever its address. Raises PeerRefused: GROUP for another group,
        IDENTITY for our own id or an id that is alive under another session, LIMITS if the directory is full.
        """
        known = self._contacts.get(card.id)
        self._admit(card, known, now)
        if known is None or known.session != card.session:
            contact = Contact(
                card=card,
                address=address,
                status=Liveness.ALIVE,
                last_beat=now,
                since=now,
                version=card.version,
                reached=reached,
            )
            again = f"started again, now at {address}" if known is not None else f"confirmed at {address}"
            self._put(contact, "back" if known is not None else "confirmed", why or again)
            return contact
        return self._confirm_again(known, card, address, now, reached=reached, why=why)

    def beat(self, peer: PeerId, session: str, now: float) -> None:
        """Note a sign of life. Ignored if it is from another session than the confirmed one, or if the peer is gone."""
        contact = self._in_session(peer, session)
        if contact is None:
            return
        revived = replace(contact, status=Liveness.ALIVE, last_beat=max(now, contact.last_beat), excused=0.0)
        if contact.alive:
            self._contacts[peer] = revived
        else:
            self._put(revived, "back", "heard of again")

    def noticed_version(self, peer: PeerId, session: str, version: int) -> None:
        """Note that the peer published a snapshot. A version that does not rise is ignored."""
        contact = self._in_session(peer, session)
        if contact is not None and version > contact.version:
            self._put(replace(contact, version=version), "version", f"version {version}")

    def card_changed(self, card: Card) -> None:
        """Note a newer card of the same session. An older card, or a card of another group, is ignored."""
        contact = self._in_session(card.id, card.session)
        if contact is None or card.serial <= contact.card.serial or card.group_tag != self._group_tag:
            return
        self._put(replace(contact, card=card, version=max(contact.version, card.version)), "card")

    def goodbye(self, peer: PeerId, session: str, why: str) -> None:
        """Note that the peer said goodbye."""
        contact = self._in_session(peer, session)
        if contact is not None:
            self._put(replace(contact, status=Liveness.GONE), "left", why or "said goodbye")

    def lost(self, peer: PeerId, session: str, why: str) -> None:
        """Note that the watch of this peer broke: it is suspect until its next sign of life."""
        contact = self._in_session(peer, session)
        if contact is not None and contact.alive:
            self._put(replace(contact, status=Liveness.SUSPECT), "suspect", why)

    def unreached(self, peer: PeerId, session: str) -> None:
        """Note that the peer lives and can no longer be called."""
        contact = self._in_session(peer, session)
        if contact is not None and contact.reached:
            self._put(replace(contact, reached=False), "reached")

    def excuse(self, seconds: float, now: float) -> None:
        """Do not count `seconds` as silence of others, because this program itself was held up and has not read the
        notices that came meanwhile. A peer with a sign of life since then needs no excuse, and gets none."""
        for peer, contact in self._contacts.items():
            excused = max(0.0, min(seconds, now - contact.last_beat))
            self._contacts[peer] = replace(
                contact, last_beat=contact.last_beat + excused, excused=contact.excused + excused
            )

    def tick(self, now: float) -> None:
        """Judge silence: a peer is suspect after `suspect_after` seconds without a sign of life, gone after
        `gone_after`."""
        for contact in self.here():
            silent = now - contact.last_beat
            if silent >= self._timing.gone_after:
                self._put(replace(contact, status=Liveness.GONE), "gone", f"silent for {silent:.1f} s")
            elif silent >= self._timing.suspect_after and contact.alive:
                self._put(replace(contact, status=Liveness.SUSPECT), "suspect", f"silent for {silent:.1f} s")

    # ---------------------------------------------------------------- inside

    def _in_session(self, peer: PeerId, session: str) -> Contact | None:
        contact = self.get(peer)
        return contact if contact is not None and contact.session == session else None

    def _admit(self, card: Card, known: Contact | None, now: float) -> None:
        if card.group_tag != self._group_tag:
            raise PeerRefused(
                card.name,
                RefusalReason.GROUP,
                f"it is of group {card.group_tag!r}, and this side of {self._group_tag!r}",
            )
        if card.id == self._own:
            raise PeerRefused(card.name, RefusalReason.IDENTITY, f"the id {card.id[:12]} is in use by this very peer")
        if known is not None and known.session != card.session and self._heard_lately(known, now):
            raise PeerRefused(
                card.name,
                RefusalReason.IDENTITY,
                f"the id {card.id[:12]} is alive at {known.address}, as {known.name!r}, under another session",
            )
        if known is None and len(self._contacts) >= self._limits.peers:
            self._forget_longest_gone(card)

    def _heard_lately(self, contact: Contact, now: float) -> bool:
        # Excused silence counts here: the peer may have restarted while this program was held up.
        silent = now - contact.last_beat + contact.excused
        return contact.alive and silent < self._timing.suspect_after

    def _forget_longest_gone(self, card: Card) -> None:
        gone = [contact for contact in self if not contact.here]
        if not gone:
            raise PeerRefused(
                card.name,
                RefusalReason.LIMITS,
                f"{self._limits.peers} peers are known here already, and no more are taken",
            )
        longest = min(gone, key=lambda contact: contact.last_beat).id
        del self._contacts[longest]
        same = self._by_start[longest[:START]]
        same.remove(longest)
        if not same:
            del self._by_start[longest[:START]]

    def _confirm_again(
        self, known: Contact, card: Card, address: Address, now: float, *, reached: bool, why: str
    ) -> Contact:
        newer = card.serial > known.card.serial
        stays = known.reached and not (newer and known.taken_back(card))
        contact = replace(
            known,
            card=card if newer else known.card,
            # An address that a caller claims does not replace one that answers, unless the newer card drops the latter:
            # the caller's machine has changed its address then, and the old one is silent.
            address=address if reached or not stays else known.address,
            status=Liveness.ALIVE,
            last_beat=max(now, known.last_beat),
            excused=0.0,
            version=max(known.version, card.version),
            reached=reached or stays,
        )
        if not known.alive:
            self._put(contact, "back", why or f"heard of again at {contact.address}")
        elif contact.reached != known.reached or contact.address != known.address:
            self._put(contact, "reached")
        elif newer:
            self._put(contact, "card")
        elif contact.version != known.version:
            self._put(contact, "version", f"version {contact.version}")
        else:
            self._contacts[contact.id] = contact
        return contact

    def _put(self, contact: Contact, what: str, why: str = "") -> None:
        if contact.id not in self._contacts:
            self._by_start.setdefault(contact.id[:START], []).append(contact.id)
        self._contacts[contact.id] = contact
        change = Change(what=what, contact=contact, why=why)
        for listener in tuple(self._listeners):
            listener(change)
