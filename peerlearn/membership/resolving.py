"""From hints to contacts: one task per lead tries until a peer answers, and tries again when that peer is gone."""

import asyncio
import random
from collections.abc import Callable, Iterator

from peerlearn.clock import now
from peerlearn.directory import Change, Contact, Directory, Lead, Leads
from peerlearn.discovery.base import Hint
from peerlearn.discovery.static import SOURCE as TOLD
from peerlearn.errors import PeerRefused, RefusalReason, TransferError, WireError
from peerlearn.membership.introducing import Introducer, head_start, pauses
from peerlearn.membership.introductions import EXCHANGE
from peerlearn.membership.ourselves import Ourselves
from peerlearn.membership.problems import Problems
from peerlearn.tasks import Background
from peerlearn.types import Address, PeerId

MEMORY = "memory"
_PATIENCE = {EXCHANGE: 2, MEMORY: 20}
"""In `gone_after`: how long a lead is followed without success when no source vouches for it any more. Hearsay is
worth two; a peer that was here before may be on a machine that starts anew, which takes minutes."""
_NAMES_MOST = 3
"""Leads of one source to one peer. Each start of it has a name of its own, and what mDNS knows of those before, killed
without a goodbye, outlives them by an hour."""
_SETTLED = (RefusalReason.GROUP, RefusalReason.PROTOCOL, RefusalReason.REVOKED)
"""Refusals that last until a setting is changed: asked again at the slowest pace."""


class Resolver:
    """A discovery listener: holds at most `limits.peers` leads and follows each. `unwanted` ones it does not take."""

    def __init__(
        self,
        me: Ourselves,
        directory: Directory,
        introducer: Introducer,
        tasks: Background,
        *,
        rng: random.Random,
        problems: Problems,
        unwanted: Callable[[Hint], bool],
    ) -> None:
        self._own = me.id
        self._directory = directory
        self._introducer = introducer
        self._tasks = tasks
        self._timing = me.timing
        self._rng = rng
        self._problems = problems
        self._unwanted = unwanted
        self._leads = Leads(me.limits.peers, me.limits.addresses)
        self._pursuits: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._in_vain: set[Lead] = set()
        """Leads that were tried without an answer."""
        self._gone: dict[PeerId, asyncio.Event] = {}

    # ---------------------------------------------------------------- what others tell us

    def hinted(self, hint: Hint) -> None:
        """Follow this hint, unless it is no news or there is no room."""
        if self._unwanted(hint) or (hint.source == EXCHANGE and self._is_no_news(hint)):
            return
        addresses = hint.addresses
        held = self._leads.get(hint.source, hint.key)
        if held is not None and hint.source == EXCHANGE:
            # Several tell of the same peer, each the addresses that it knows: news only when there is a new one.
            if set(addresses) <= set(held.addresses):
                return
            addresses += held.addresses
        lead = Lead(
            source=hint.source,
            key=hint.key,
            addresses=tuple(dict.fromkeys(addresses)),
            id_prefix=hint.id_prefix,
            told=hint.source == TOLD,
        )
        held, removed = self._leads.add(lead)
        for old in (*removed, *self._outdated(lead)):
            self._stop(old)
        if held is not None:
            place = (held.source, held.key)
            self._pursuits[place] = self._tasks.supervise(
                lambda: self._pursue(held), name=f"seek:{held.source}:{held.key[:24]}", lost="this address is not tried"
            )

    def _is_no_news(self, hint: Hint) -> bool:
        """Whether the peer is here, or we have a lead of our own to these addresses that we have not tried in vain.
        After a try in vain hearsay is news: the peer may be there again."""
        if self._directory.expected(hint.id_prefix):
            return True
        own = (lead for lead in self._leads.to(hint.id_prefix) if lead.source not in _PATIENCE)
        return any(
            all(address in lead.addresses for address in hint.addresses) and lead not in self._in_vain for lead in own
        )

    def _outdated(self, lead: Lead) -> list[Lead]:
        """Take the oldest out of many leads to the same peer."""
        same = [
            each
            for each in self._leads.to(lead.id_prefix)
            if (each.source, each.id_prefix) == (lead.source, lead.id_prefix)
        ]
        others = [each for each in same if each.key != lead.key]
        old = others[: 1 - _NAMES_MOST] if lead.id_prefix else []
        for each in old:
            self._leads.remove(each.source, each.key)
        return old

    def withdrawn(self, source: str, key: str) -> None:
        """Stop following the hint of this source and key."""
        lead = self._leads.remove(source, key)
        if lead is not None:
            self._stop(lead)

    def heed(self, change: Change) -> None:
        """A change of the directory: a peer that is gone is looked for again; one that left without a goodbye, at its
        last addresses too."""
        if change.contact.here:
            return
        gone = self._gone.pop(change.contact.id, None)
        if gone is not None:
            gone.set()
        if change.what == "left":
            for source in _PATIENCE:
                self.withdrawn(source, change.contact.id)
        else:
            where = tuple(self.addresses_of(change.contact))
            peer = change.contact.id
            self.hinted(Hint(addresses=where, source=MEMORY, key=peer, id_prefix=peer))

    def addresses_of(self, contact: Contact) -> list[Address]:
        """Everywhere that this contact may be: where it was, where it says it is, where leads say it is."""
        leads = (address for lead in self._leads.to(contact.id) for address in lead.addresses)
        found = [contact.address, *contact.card.addresses, *leads]
        return [address for address in dict.fromkeys(found) if address.port]

    # ---------------------------------------------------------------- one lead

    async def _pursue(self, lead: Lead) -> None:
        waits = pauses(self._timing, self._rng)
        since, said = now(), ""
        if not lead.told and self._own > lead.id_prefix:
            # Who finds us by mDNS is found by us: of two, the one with the lower id goes to see the other.
            await asyncio.sleep(head_start(self._timing, len(self._leads)))
        elif lead.source == EXCHANGE:
            # Most peers that others name introduce themselves meanwhile.
            await asyncio.sleep(next(waits))
        while True:
            contact = self._directory.expected(lead.id_prefix)
            peer = contact.id if contact is not None else None
            if peer is None:
                try:
                    doubtful = bool(said) or lead.source in _PATIENCE
                    card = await self._introducer.meet(
                        lead.addresses, expect=lead.id_prefix, doubtful=doubtful, unless="known"
                    )
                except (TransferError, WireError) as exc:
                    if self._hopeless(lead, since):
                        break
                    self._in_vain.add(lead)
                    said = self._trouble(lead, exc, said)
                    await asyncio.sleep(self._pause(exc, waits))
                    continue
                if card is None:
                    break
                peer = card.id
            self._problems.solved(lead)
            self._in_vain.discard(lead)
            await self._until_gone(peer)
            # A peer that has just left is not called at once.
            waits, since, said = pauses(self._timing, self._rng), now(), ""
            await asyncio.sleep(next(waits))
        self._forget(lead)

    def _trouble(self, lead: Lead, exc: TransferError | WireError, said: str) -> str:
        sentence = self._problems.of_lead(lead, exc)
        if isinstance(exc, PeerRefused) and sentence != said and not lead.told:
            self._problems.refused(lead, exc, sentence)
        return sentence

    def _pause(self, exc: TransferError | WireError, waits: Iterator[float]) -> float:
        if isinstance(exc, PeerRefused) and exc.reason in _SETTLED:
            return self._timing.retry_most * self._rng.uniform(0.5, 1.0)
        return next(waits)

    def _hopeless(self, lead: Lead, since: float) -> bool:
        times = _PATIENCE.get(lead.source)
        return times is not None and now() - since > times * self._timing.gone_after

    async def _until_gone(self, peer: PeerId) -> None:
        while self._directory.get(peer) is not None:
            await self._gone.setdefault(peer, asyncio.Event()).wait()

    def _forget(self, lead: Lead) -> None:
        self._in_vain.discard(lead)
        if lead in self._leads:
            self._leads.remove(lead.source, lead.key)
            self._pursuits.pop((lead.source, lead.key), None)

    def _stop(self, lead: Lead) -> None:
        self._in_vain.discard(lead)
        task = self._pursuits.pop((lead.source, lead.key), None)
        if task is not None:
            task.cancel()
