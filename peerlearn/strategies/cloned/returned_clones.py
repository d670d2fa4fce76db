"""Trained clones that edges return to a hub, member by member. Complete ensembles wait in the order of their
arrival."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from peerlearn.knowledge import Params, Received
from peerlearn.strategies.shared import teacher_checks

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Returned:
    """All members that one edge made of one clone, in member order. `version`: that of the clone; `arrival`: a rising
    number."""

    sender: str
    session: str
    version: int
    arrival: int
    members: Sequence[State]


@dataclass(slots=True, eq=False)
class _Visit:
    """An incomplete ensemble of one edge."""

    session: str
    version: int
    members: dict[int, State] = field(default_factory=dict)


class Returns:
    """The ensembles of all edges. There is at most one incomplete ensemble per edge: a later one replaces it."""

    def __init__(self, members: int) -> None:
        self._members = members
        self._open: dict[str, _Visit] = {}
        self._complete: list[Returned] = []
        self._last: dict[str, tuple[str, int]] = {}
        self._arrivals = 0
        self._settled = 0
        """The latest arrival that was used. A rollback does not reset it, so that a harmful teacher is not tried
        again."""
        self._settled_before = 0
        """The value of `_settled` before the last call of `next`."""

    def is_new(self, received: Received, knowledge: Params) -> bool:
        """True for a member that is still missing, or that belongs to a later clone than this edge's others in the same
        session."""
        sender, session = received.sender.id, received.sender.session
        if self._last.get(sender, ("", 0))[0] == session and knowledge.version <= self._last[sender][1]:
            return False
        visit = self._open.get(sender)
        if visit is None or visit.session != session or visit.version < knowledge.version:
            return True
        return visit.version == knowledge.version and knowledge.member not in visit.members

    def keep(self, received: Received, knowledge: Params) -> None:
        """Add one member that is new and has been checked."""
        sender, session = received.sender.id, received.sender.session
        visit = self._open.get(sender)
        if visit is None or (visit.session, visit.version) != (session, knowledge.version):
            visit = self._open[sender] = _Visit(session, knowledge.version)
        visit.members[knowledge.member] = teacher_checks.dense(knowledge)
        if len(visit.members) == self._members:
            del self._open[sender]
            self._last[sender] = session, visit.version
            self._arrivals += 1
            states = [visit.members[member] for member in sorted(visit.members)]
            self._complete.append(Returned(sender, session, visit.version, self._arrivals, states))

    def forget(self, sender: str) -> None:
        """Drop this edge's members that have not been used."""
        self._open.pop(sender, None)
        self._complete = [returned for returned in self._complete if returned.sender != sender]

    def next(self) -> Returned | None:
        """Take the oldest complete ensemble, which counts as used from now on; None when there is none."""
        waiting = list(self._waiting())
        if not waiting:
            return None
        self._settled_before, self._settled = self._settled, waiting[0].arrival
        self._complete = waiting[1:]
        return waiting[0]

    def put_back(self, returned: Returned) -> None:
        """Undo the last `next`: work on that ensemble was interrupted and will be repeated."""
        self._settled = self._settled_before
        self._complete = [returned, *self._complete]

    def __len__(self) -> int:
        """Number of complete ensembles that wait."""
        return len(list(self._waiting()))

    def _waiting(self) -> Iterator[Returned]:
        return (returned for returned in self._complete if returned.arrival > self._settled)

    def state_dict(self) -> dict[str, Any]:
        return {
            "open": [
                {"sender": sender, "session": v.session, "version": v.version, "members": _plain(v.members)}
                for sender, v in self._open.items()
            ],
            "complete": [
                {
                    "sender": r.sender,
                    "session": r.session,
                    "version": r.version,
                    "arrival": r.arrival,
                    "members": [dict(member) for member in r.members],
                }
                for r in self._waiting()
            ],
            "last": {sender: list(last) for sender, last in self._last.items()},
            "arrivals": self._arrivals,
            "settled": self._settled,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._open = {v["sender"]: _Visit(v["session"], v["version"], _plain(v["members"])) for v in state["open"]}
        self._complete = [Returned(**kept) for kept in state["complete"]]
        self._last = {sender: (str(session), int(version)) for sender, (session, version) in state["last"].items()}
        self._arrivals = int(state["arrivals"])
        self._settled = max(self._settled, int(state["settled"]))


def _plain(members: Mapping[int, State]) -> dict[int, State]:
    return {member: dict(tensors) for member, tensors in members.items()}
