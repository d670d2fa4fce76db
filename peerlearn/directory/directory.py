"""The directory: a state machine of who is here. No clock, no tasks, no network: the time is told with every fact."""

import difflib
from collections.abc import Callable, Iterator
from dataclasses import replace

from peerlearn.config import Limits, Timing
from peerlearn.directory.contacts import START, Change, Contact, Liveness
from peerlearn.errors import ConfigError, PeerRefused, RefusalReason
from peerlearn.types import Address, Card, PeerId

Listener = Callable[[Change], None]


class Directory:
    """Holds at most `limits.peers` contacts; iterates in id order, so that no result depends on who came first.

    `own` is the id of the peer that keeps it, and never enters; "" when nobody does (somebody who only looks).
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
        """Everybody remembered, those gone included, in id order."""
        return iter([self._contacts[peer] for peer in sorted(self._contacts)])

    def __len__(self) -> int:
        return len(self._contacts)

    def alive(self) -> list[Contact]:
        """Those that can be asked for knowledge now: confirmed, alive, and reached. In id order."""
        return [contact for contact in self if contact.alive and contact.reached]

    def here(self) -> list[Contact]:
        """Those alive or suspect, reached or not. In id order."""
        return [contact for contact in self if contact.here]

    def get(self, peer: PeerId) -> Contact | None:
        """A contact that is here (alive or suspect); None when it is unknown or gone."""
        contact = self._contacts.get(peer)
        return contact if contact is not None and contact.here else None

    def expected(self, id_prefix: str) -> Contact | None:
        """The contact here whose id begins so; None for an empty prefix."""
        if not id_prefix:
            return None
        if len(id_prefix) == 32:
            return self.get(PeerId(id_prefix))
        some = self._by_start.get(id_prefix[:START], ()) if len(id_prefix) >= START else self._contacts
        return next((here for peer in some if peer.startswith(id_prefix) and (here := self.get(peer))), None)

    def find(self, text: str) -> Contact:
        """The one contact with this name or start of an id. Raises ConfigError naming the nearest, or the several."""
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
        near = difflib.get_close_matches(text, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"here are: {', '.join(names[:20]) or 'nobody'}"
        raise ConfigError(f"no peer is called {text!r}, and no id begins so; {hint}")

    # ---------------------------------------------------------------- facts

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` after every change, in the order of listening; the result ends that. Must not block."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def confirm(self, card: Card, address: Address, now: float, *, reached: bool, why: str = "") -> Contact:
        """A verified card came, from somebody who is there now. `reached`: it answered us, at `address`.

        A peer known from before is recognised by its id, whatever its address. Raises PeerRefused: GROUP for another
        group, IDENTITY for our own id or one that is alive under another session, LIMITS when the directory is full.
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
        """A sign of life. One from a session that is not the confirmed one, or of somebody gone, means nothing."""
        contact = self._in_session(peer, session)
        if contact is None:
            return
        revived = replace(contact, status=Liveness.ALIVE, last_beat=max(now, contact.last_beat), excused=0.0)
        if contact.alive:
            self._contacts[peer] = revived
        else:
            self._put(revived, "back", "heard of again")

    def noticed_version(self, peer: PeerId, session: str, version: int) -> None:
        """It published a snapshot. Versions only rise within a session."""
        contact = self._in_session(peer, session)
        if contact is not None and version > contact.version:
            self._put(replace(contact, version=version), "version", f"version {version}")

    def card_changed(self, card: Card) -> None:
        """It sent a newer card of the same session. An older one, or one of another group, changes nothing."""
        contact = self._in_session(card.id, card.session)
        if contact is None or card.serial <= contact.card.serial or card.group_tag != self._group_tag:
            return
        self._put(replace(contact, card=card, version=max(contact.version, card.version)), "card")

    def goodbye(self, peer: PeerId, session: str, why: str) -> None:
        """It leaves, and said so."""
        contact = self._in_session(peer, session)
        if contact is not None:
            self._put(replace(contact, status=Liveness.GONE), "left", why or "said goodbye")

    def lost(self, peer: PeerId, session: str, why: str) -> None:
        """Its watch broke: suspect until it is heard of again."""
        contact = self._in_session(peer, session)
        if contact is not None and contact.alive:
            self._put(replace(contact, status=Liveness.SUSPECT), "suspect", why)

    def unreached(self, peer: PeerId, session: str) -> None:
        """It lives, and cannot be called any more."""
        contact = self._in_session(peer, session)
        if contact is not None and contact.reached:
            self._put(replace(contact, reached=False), "reached")

    def excuse(self, seconds: float, now: float) -> None:
        """We ourselves slept: what others said meanwhile lies unread, so nobody is to blame for that time. Who was
        heard of since then needs no excuse, and must not be thought to live on for as long as we slept."""
        for peer, contact in self._contacts.items():
            excused = max(0.0, min(seconds, now - contact.last_beat))
            self._contacts[peer] = replace(
                contact, last_beat=contact.last_beat + excused, excused=contact.excused + excused
            )

    def tick(self, now: float) -> None:
        """Judge silence: suspect after `suspect_after`, gone after `gone_after` without a beat."""
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
        # While we slept it may well have started anew: an excuse is no sign of life.
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
            # A caller's own word on where it can be found does not displace an address that answers, unless it takes
            # back what it has said of that one: its machine has another address now, and the old one is silent.
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
