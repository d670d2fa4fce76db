"""Group testing: finds the providers whose knowledge does harm, and decides how long they are quarantined. Pure.

After a rollback, all providers whose knowledge was used are suspects. They are split into halves, each half is asked
without the other, and so on down to single providers: one liar among m is found after at most 2 log2(m) further trials.
A provider is quarantined after `failures` transfers in a row that failed with it alone, or after as many answers in a
row that were refused before use. Trials take turns with exchanges among providers that are not suspected. Everything
is counted in exchanges and versions, never in seconds, so that lockstep runs can be repeated to the bit.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from peerlearn.types import Card, PeerId
from peerlearn.wire.cards import is_peer_id

FAILURES = 3
"""Failures in a row, of one provider alone, that lead to quarantine. One failure may be chance, since a held-out set is
small; three in a row are not."""

FIRST_PAUSE = 8
"""Versions that a quarantined provider must publish before it is tried again; each further quarantine doubles it. Long
enough that a provider can have mended itself by further training, short enough that an honest one is soon back."""

MOST_PAUSE = 1024
"""Upper bound of the pause, in versions: even a provider that always does harm gets another chance."""

REMEMBERED = 1024
"""Upper bound on remembered providers, and on providers in groups under test; quarantined ones are forgotten last."""

_UNHEARD = 3
"""Trials of a group without a verdict (because its providers had nothing new) before the group is given up."""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Quarantine of a provider, for this reason, until it publishes version `until` or begins another session."""

    provider: PeerId
    why: str
    until: int


@dataclass(slots=True)
class _Record:
    session: str
    failures: int = 0
    exclusions: int = 0
    until: int | None = None
    """Version at which a quarantined provider is tried again; None: it is not quarantined."""
    why: str = ""
    """Reason of the latest failure."""


class GroupTesting:
    """Failures, quarantines and groups under test, as one consumer sees its providers. Lives on the event loop."""

    def __init__(self, *, failures: int = FAILURES) -> None:
        self._failures = failures
        self._standing: dict[PeerId, _Record] = {}
        self._groups: list[tuple[frozenset[PeerId], int]] = []
        """Disjoint groups of suspects, each with its number of trials without a verdict; the first is tried next."""
        self._turn = False
        """True if the last exchange was a trial of suspects; the next one is then among the others."""

    def why(self, provider: Card, version: int) -> str | None:
        """Why this provider, now at this version, is not to be used; None if it may be used."""
        standing = self._of(provider)
        if standing is None or standing.until is None or version >= standing.until:
            return None
        return f"put aside until its version {standing.until}: {standing.why}"

    def trial(self, candidates: Collection[PeerId]) -> frozenset[PeerId] | None:
        """The subset of candidates to ask in this exchange; None: no restriction. Each call counts as one exchange.

        A provider whose quarantine has ended is first tried alone: one more failure quarantines it for twice as long.
        """
        for peer in sorted(candidates):
            standing = self._standing.get(peer)
            if standing is not None and standing.until is not None:
                standing.until = None
                self._regroup(frozenset({peer}), [frozenset({peer})], last=True)
        suspects = self.suspects
        present = [group for group, _ in self._groups if not group.isdisjoint(candidates)]
        unsuspected = frozenset(candidates) - suspects
        self._turn = not self._turn and bool(present)
        if not present:
            return None
        if unsuspected and not self._turn:
            return unsuspected
        self._asked(present[0])
        return present[0] & frozenset(candidates)

    @property
    def suspects(self) -> frozenset[PeerId]:
        """Providers in the groups that are still to be tried."""
        return frozenset[PeerId]().union(*(group for group, _ in self._groups))

    def kept(self, providers: Iterable[PeerId]) -> None:
        """Clear these providers: a transfer with their knowledge was measured and kept."""
        cleared = frozenset(providers)
        for peer in cleared:
            if (standing := self._standing.get(peer)) is not None and standing.until is None:
                del self._standing[peer]
        self._regroup(cleared, [])

    def failed(self, providers: Collection[Card], why: str) -> Exclusion | None:
        """Note that a transfer with these providers was rolled back, for this reason. Returns the quarantine of a
        provider that has failed alone often enough, else None."""
        if len(providers) == 1:
            (alone,) = providers
            exclusion = self.refused(alone, why)
            if exclusion is None:
                self._regroup(frozenset({alone.id}), [frozenset({alone.id})], last=True)
            return exclusion
        ids = sorted(card.id for card in providers)
        half = (len(ids) + 1) // 2
        self._turn = False  # the first half is tried at the very next exchange
        self._regroup(frozenset(ids), [frozenset(part) for part in (ids[:half], ids[half:]) if part])
        return None

    def refused(self, provider: Card, why: str) -> Exclusion | None:
        """Note a failure of this provider alone: its knowledge was refused before use, or a transfer with it alone
        failed. Returns its quarantine if it has failed often enough, else None."""
        standing = self._of(provider) or _Record(provider.session)
        standing.failures, standing.why = standing.failures + 1, why
        self._standing[provider.id] = standing
        self._forget_one(besides=provider.id)
        if standing.failures < self._failures:
            return None
        self._regroup(frozenset({provider.id}), [])
        standing.exclusions += 1
        pause = min(FIRST_PAUSE * 2 ** (standing.exclusions - 1), MOST_PAUSE)
        standing.until = provider.version + pause
        return Exclusion(provider.id, why, standing.until)

    # ---------------------------------------------------------------- kept across a restart

    def as_tree(self) -> dict[str, Any]:
        """The whole state, for a checkpoint."""
        return {
            "standing": [
                [peer, its.session, its.failures, its.exclusions, its.until, its.why]
                for peer, its in self._standing.items()
            ],
            "groups": [[sorted(group), times] for group, times in self._groups],
            "turn": self._turn,
        }

    def restore(self, tree: Mapping[str, Any]) -> None:
        """Restore the state from `as_tree`. Raises ValueError, TypeError or KeyError, with nothing changed, for a tree
        that `as_tree` cannot have made."""
        standing = {_id(peer): _standing(*its) for peer, *its in _few(tree["standing"])}
        groups = [(frozenset(map(_id, _few(members))), _count(times)) for members, times in _few(tree["groups"])]
        if sum(len(group) for group, _ in groups) != len(frozenset[PeerId]().union(*(group for group, _ in groups))):
            raise ValueError("somebody is in two groups of suspects")
        self._standing, self._groups, self._turn = standing, groups, bool(tree["turn"])

    # ---------------------------------------------------------------- inside

    def _of(self, provider: Card) -> _Record | None:
        """The record of this provider. A provider that comes back under another session starts with a clean slate."""
        standing = self._standing.get(provider.id)
        if standing is not None and standing.session != provider.session:
            del self._standing[provider.id]
            self._regroup(frozenset({provider.id}), [])
            return None
        return standing

    def _forget_one(self, *, besides: PeerId) -> None:
        """Forget one provider if too many are remembered, if possible one that is not quarantined."""
        if len(self._standing) > REMEMBERED:
            free = (peer for peer, its in self._standing.items() if its.until is None and peer != besides)
            del self._standing[next(free, next(iter(self._standing)))]

    def _asked(self, group: frozenset[PeerId]) -> None:
        """Move this group, which is tried now, to the end: its verdict may never come. After _UNHEARD such trials the
        group is given up."""
        times = dict(self._groups)[group] + 1
        self._groups = [entry for entry in self._groups if entry[0] != group]
        if times < _UNHEARD:
            self._groups.append((group, times))

    def _regroup(self, known: frozenset[PeerId], parts: list[frozenset[PeerId]], *, last: bool = False) -> None:
        """Take `known` out of all groups, and add these parts of it as new groups, in front or (`last`) at the end."""
        left = [(rest, times) for group, times in self._groups if (rest := group - known)][: REMEMBERED - len(parts)]
        new = [(part, 0) for part in parts]
        self._groups = [*left, *new] if last else [*new, *left]


def _standing(session: str, failures: int, exclusions: int, until: int | None, why: str) -> _Record:
    if not isinstance(session, str) or not isinstance(why, str):
        raise TypeError("what is held against somebody is no text")
    return _Record(session, _count(failures), _count(exclusions), None if until is None else _count(until), why)


def _id(peer: object) -> PeerId:
    if not isinstance(peer, str) or not is_peer_id(peer):
        raise ValueError(f"{str(peer)[:40]!r} is no id of a peer")
    return PeerId(peer)


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{str(value)[:40]!r} is no count")
    return value


def _few(entries: object) -> list[Any]:
    if not isinstance(entries, list) or len(entries) > REMEMBERED:
        raise ValueError(f"what is held against others is no list of at most {REMEMBERED}")
    return entries
