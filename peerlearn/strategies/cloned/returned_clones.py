"""Trained clones that come back to a hub, member by member; complete ensembles wait in order of arrival."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from peerlearn.knowledge import Params, Received
from peerlearn.strategies.shared import teacher_checks

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Returned:
    """All members that one edge made of one clone, in member order; `version`: of the clone; `arrival`: counts up."""

    sender: str
    session: str
    version: int
    arrival: int
    members: Sequence[State]


@dataclass(slots=True, eq=False)
class _Visit:
    session: str
    version: int
    members: dict[int, State] = field(default_factory=dict)


class Returns:
    """At most one incomplete ensemble per edge: what it begins later takes the place of what it left unfinished."""

    def __init__(self, members: int) -> None:
        self._members = members
        self._open: dict[str, _Visit] = {}
        self._complete: list[Returned] = []
        self._last: dict[str, tuple[str, int]] = {}
        self._arrivals = 0
        self._settled = 0
        """The arrival dealt with last. Never goes back, even when a transfer is rolled back: a teacher that did harm
        is not tried again."""

    def is_new(self, received: Received, knowledge: Params) -> bool:
        """Whether it belongs to a clone later than those of this edge's session that are complete or under way, or
        is a member still missing."""
        sender, session = received.sender.id, received.sender.session
        if self._last.get(sender, ("", 0))[0] == session and knowledge.version <= self._last[sender][1]:
            return False
        visit = self._open.get(sender)
        if visit is None or visit.session != session or visit.version < knowledge.version:
            return True
        return visit.version == knowledge.version and knowledge.member not in visit.members

    def keep(self, received: Received, knowledge: Params) -> None:
        """One member that was found new and fitting."""
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
        """What this edge has brought and nobody has looked at."""
        self._open.pop(sender, None)
        self._complete = [returned for returned in self._complete if returned.sender != sender]

    def next(self) -> Returned | None:
        """The oldest complete ensemble, which is with this call dealt with; None when there is none."""
        waiting = list(self._waiting())
        if not waiting:
            return None
        self._settled = waiting[0].arrival
        self._complete = waiting[1:]
        return waiting[0]

    def __len__(self) -> int:
        """Complete ensembles that wait."""
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
