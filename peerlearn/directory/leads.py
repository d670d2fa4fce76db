"""Leads: addresses that may lead to a peer. Bounded; leads given by the user push out those found by discovery."""

from collections.abc import Iterator
from dataclasses import dataclass

from peerlearn.directory.contacts import START
from peerlearn.types import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """Addresses that may lead to one peer."""

    source: str
    """Name of the discovery that gave it."""
    key: str
    """Name of the lead within its source: a later lead with the same key replaces it."""
    addresses: tuple[Address, ...]
    id_prefix: str = ""
    """Start of the id of the expected peer; empty if it is not known."""
    told: bool = False
    """True if the user of this machine gave it: such a lead is never given up and never pushed out."""

    def __str__(self) -> str:
        return ", ".join(map(str, self.addresses))


class Leads:
    """At most `most` leads, and at most `most_addresses` in each."""

    def __init__(self, most: int, most_addresses: int) -> None:
        self._most = most
        self._most_addresses = most_addresses
        self._held: dict[tuple[str, str], Lead] = {}
        self._by_start: dict[str, dict[tuple[str, str], Lead]] = {}
        """Leads by the first START digits of the id; under "" those of which fewer digits are known."""

    def __iter__(self) -> Iterator[Lead]:
        return iter(list(self._held.values()))

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, lead: Lead) -> bool:
        return self._held.get((lead.source, lead.key)) == lead

    def add(self, lead: Lead) -> tuple[Lead | None, tuple[Lead, ...]]:
        """Add a lead. Returns it as held (its addresses may be cut), or None if nothing has changed or there is no
        room; and the leads that it replaced or pushed out."""
        lead = Lead(
            source=lead.source,
            key=lead.key,
            addresses=lead.addresses[: self._most_addresses],
            id_prefix=lead.id_prefix,
            told=lead.told,
        )
        place = (lead.source, lead.key)
        before = self._held.get(place)
        if before == lead or not lead.addresses:
            return None, ()
        removed = [before] if before is not None else []
        if before is None and len(self._held) >= self._most:
            victim = next((held for held in self._held.values() if not held.told), None)
            if victim is None or not lead.told:
                return None, ()
            removed.append(victim)
        for old in removed:
            self.remove(old.source, old.key)
        self._held[place] = lead
        self._by_start.setdefault(_start(lead), {})[place] = lead
        return lead, tuple(removed)

    def to(self, peer: str) -> list[Lead]:
        """The leads whose `id_prefix` fits the id of this peer."""
        starts = (self._by_start.get(start, {}) for start in (peer[:START], ""))
        return [lead for some in starts for lead in some.values() if lead.id_prefix and peer.startswith(lead.id_prefix)]

    def get(self, source: str, key: str) -> Lead | None:
        """The lead of this source and key; None if it is not held."""
        return self._held.get((source, key))

    def remove(self, source: str, key: str) -> Lead | None:
        """Take this lead out; returns it, or None when it was not held."""
        lead = self._held.pop((source, key), None)
        if lead is not None:
            same = self._by_start[_start(lead)]
            del same[source, key]
            if not same:
                del self._by_start[_start(lead)]
        return lead


def _start(lead: Lead) -> str:
    return lead.id_prefix[:START] if len(lead.id_prefix) >= START else ""
