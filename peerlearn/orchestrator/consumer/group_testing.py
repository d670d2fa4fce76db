"""Whose knowledge does harm: who is asked alone after a rollback, who is put aside, and until when. Pure bookkeeping.

After a rollback suspicion falls on all whose knowledge was used. They are split into halves, each of which is asked
without the other, and so on down to one: with one liar among m that takes at most 2 log2(m) further trials. Who,
alone, makes `strikes` transfers in a row fail, or sends what is refused before use, is put aside. Between two trials
those whom nobody suspects teach. All is counted in exchanges and versions, never in seconds: lockstep runs stay what
they are.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from peerlearn.types import Card, PeerId
from peerlearn.wire.cards import is_peer_id

FAILURES = 3
"""One may be chance: a held-out set is small. Three in a row, alone, are not."""

FIRST_PAUSE = 8
"""Versions that the provider must publish before it is tried again; twice as many with each further time."""

MOST_PAUSE = 1024

REMEMBERED = 1024
"""Peers at most of whom anything is held, and groups that wait for a trial; those who are put aside go last."""

_UNHEARD = 3
"""So often a group is asked without a verdict, because nothing new came of it, until it is no longer waited for."""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """This provider is put aside, for this reason, until it publishes version `until` or begins another session."""

    provider: PeerId
    why: str
    until: int


@dataclass(slots=True)
class _Record:
    session: str
    strikes: int = 0
    sentences: int = 0
    until: int | None = None
    """The version at which it is tried again; None: nothing is held against it that has not been seen in trials."""
    why: str = ""


class GroupTesting:
    """One consumer's view of those who teach it."""

    def __init__(self, *, strikes: int = FAILURES) -> None:
        self._strikes = strikes
        self._standing: dict[PeerId, _Record] = {}
        self._groups: list[tuple[frozenset[PeerId], int]] = []
        """Disjoint, each with how often it was asked in vain; the first is tried next."""
        self._turn = False

    def why(self, provider: Card, version: int) -> str | None:
        """Why this provider, now at this version, is not to be used; None when it may be."""
        standing = self._of(provider)
        if standing is None or standing.until is None or version >= standing.until:
            return None
        return f"put aside until its version {standing.until}: {standing.why}"

    def trial(self, candidates: Collection[PeerId]) -> frozenset[PeerId] | None:
        """To whom of those who could be asked this exchange is limited; None: to nobody. Each call is one exchange.

        Who has served its sentence is tried alone first: one more strike puts it aside again, for twice as long."""
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
        return frozenset[PeerId]().union(*(group for group, _ in self._groups))

    def kept(self, providers: Iterable[PeerId]) -> None:
        """A transfer by these was measured, and kept: they are cleared."""
        cleared = frozenset(providers)
        for peer in cleared:
            if (standing := self._standing.get(peer)) is not None and standing.until is None:
                del self._standing[peer]
        self._regroup(cleared, [])

    def failed(self, providers: Collection[Card], why: str) -> Exclusion | None:
        """A transfer by these was rolled back. The sentence, when one of them has failed alone often enough."""
        if len(providers) == 1:
            (alone,) = providers
            sentence = self.refused(alone, why)
            if sentence is None:
                self._regroup(frozenset({alone.id}), [frozenset({alone.id})], last=True)
            return sentence
        ids = sorted(card.id for card in providers)
        half = (len(ids) + 1) // 2
        self._turn = False
        self._regroup(frozenset(ids), [frozenset(part) for part in (ids[:half], ids[half:]) if part])
        return None

    def refused(self, provider: Card, why: str) -> Exclusion | None:
        """Its knowledge was refused before use: nobody else can be to blame, so that it need not be tried alone."""
        standing = self._of(provider) or _Record(provider.session)
        standing.strikes, standing.why = standing.strikes + 1, why
        self._standing[provider.id] = standing
        self._forget_one(besides=provider.id)
        if standing.strikes < self._strikes:
            return None
        self._regroup(frozenset({provider.id}), [])
        standing.sentences += 1
        pause = min(FIRST_PAUSE * 2 ** (standing.sentences - 1), MOST_PAUSE)
        standing.until = provider.version + pause
        return Exclusion(provider.id, why, standing.until)

    # ---------------------------------------------------------------- kept across a restart

    def as_tree(self) -> dict[str, Any]:
        """All that it knows, for a checkpoint."""
        return {
            "standing": [
                [peer, its.session, its.strikes, its.sentences, its.until, its.why]
                for peer, its in self._standing.items()
            ],
            "groups": [[sorted(group), times] for group, times in self._groups],
            "turn": self._turn,
        }

    def restore(self, tree: Mapping[str, Any]) -> None:
        """As it was when `as_tree` was called. Raises ValueError, TypeError or KeyError, with nothing changed, for
        what that cannot have made."""
        standing = {_id(peer): _standing(*its) for peer, *its in _few(tree["standing"])}
        groups = [(frozenset(map(_id, _few(members))), _count(times)) for members, times in _few(tree["groups"])]
        if sum(len(group) for group, _ in groups) != len(frozenset[PeerId]().union(*(group for group, _ in groups))):
            raise ValueError("somebody is in two groups of suspects")
        self._standing, self._groups, self._turn = standing, groups, bool(tree["turn"])

    # ---------------------------------------------------------------- inside

    def _of(self, provider: Card) -> _Record | None:
        """A provider that comes back under another session begins with a clean slate."""
        standing = self._standing.get(provider.id)
        if standing is not None and standing.session != provider.session:
            del self._standing[provider.id]
            self._regroup(frozenset({provider.id}), [])
            return None
        return standing

    def _forget_one(self, *, besides: PeerId) -> None:
        """When too many are remembered."""
        if len(self._standing) > REMEMBERED:
            free = (peer for peer, its in self._standing.items() if its.until is None and peer != besides)
            del self._standing[next(free, next(iter(self._standing)))]

    def _asked(self, group: frozenset[PeerId]) -> None:
        """A verdict may never come: then it makes room for the others, and after some times for good."""
        times = dict(self._groups)[group] + 1
        self._groups = [entry for entry in self._groups if entry[0] != group]
        if times < _UNHEARD:
            self._groups.append((group, times))

    def _regroup(self, known: frozenset[PeerId], parts: list[frozenset[PeerId]], *, last: bool = False) -> None:
        """`known` leave the groups that they are in; these parts of them come first, or last."""
        left = [(rest, times) for group, times in self._groups if (rest := group - known)][: REMEMBERED - len(parts)]
        new = [(part, 0) for part in parts]
        self._groups = [*left, *new] if last else [*new, *left]


def _standing(session: str, strikes: int, sentences: int, until: int | None, why: str) -> _Record:
    if not isinstance(session, str) or not isinstance(why, str):
        raise TypeError("what is held against somebody is no text")
    return _Record(session, _count(strikes), _count(sentences), None if until is None else _count(until), why)


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
