"""Teacher memory: the latest knowledge of each provider, kept by the consumer until it is forgotten."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from peerlearn.knowledge import Knowledge, Outputs, Params, Query, Received
from peerlearn.types import Card


@dataclass(frozen=True, slots=True, eq=False)
class RememberedKnowledge:
    """Checked knowledge and its sender. `tensors` are dense."""

    sender: str
    session: str
    knowledge: Knowledge

    @property
    def version(self) -> int:
        """Version of the snapshot from which the knowledge came."""
        return self.knowledge.version


class TeacherMemory:
    """At most one entry per (sender, member). Iterates in sender order, so that the order of arrival does not
    matter."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int], RememberedKnowledge] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[RememberedKnowledge]:
        return (self._kept[key] for key in sorted(self._kept))

    def is_new(self, received: Received) -> bool:
        """True for another session, another kind of knowledge, or a later version than the entry of this sender and
        member."""
        kept = self._kept.get(_key(received))
        if (
            kept is None
            or kept.session != received.sender.session
            or type(kept.knowledge) is not type(received.knowledge)
        ):
            return True
        return received.knowledge.version > kept.version

    def keep(self, received: Received) -> None:
        """Replace the entry of this sender and member. The knowledge must have been checked."""
        self._kept[_key(received)] = RememberedKnowledge(
            received.sender.id, received.sender.session, received.knowledge
        )

    def forget(self, sender: str) -> None:
        """Drop all entries of this sender."""
        for key in [key for key in self._kept if key[0] == sender]:
            del self._kept[key]

    def version_of(self, provider: Card, kind: type[Knowledge]) -> int | None:
        """Version of this kind of knowledge held from this provider's present session; None when there is none."""
        kept = self._kept.get((provider.id, 0))
        fresh = kept is not None and kept.session == provider.session and isinstance(kept.knowledge, kind)
        return kept.version if kept is not None and fresh else None

    def state_dict(self) -> dict[str, Any]:
        return {"kept": [_saved(kept) for kept in self]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the result of `state_dict`."""
        kept = [_restored(entry) for entry in state["kept"]]
        self._kept = {(k.sender, getattr(k.knowledge, "member", 0)): k for k in kept}


def conditional(query: Query, held: int | None, provider: Card) -> Query:
    """The same query, naming the version `held` as the one that the consumer has."""
    if held is None:
        return query
    return Query(
        want=query.want, select=query.select, have=held, have_session=provider.session, at=query.at, cast=query.cast
    )


def _key(received: Received) -> tuple[str, int]:
    return received.sender.id, getattr(received.knowledge, "member", 0)


def _saved(kept: RememberedKnowledge) -> dict[str, Any]:
    knowledge = kept.knowledge
    about = {
        "sender": kept.sender,
        "session": kept.session,
        "version": kept.version,
        "tensors": dict(knowledge.tensors),
    }
    if isinstance(knowledge, Params):
        return {**about, "architecture": knowledge.architecture, "member": knowledge.member}
    return {**about, "dataset": knowledge.dataset, "fingerprint": knowledge.fingerprint, "ids": knowledge.ids}


def _restored(entry: Mapping[str, Any]) -> RememberedKnowledge:
    knowledge: Knowledge
    if "architecture" in entry:
        knowledge = Params(
            tensors=entry["tensors"],
            architecture=entry["architecture"],
            version=entry["version"],
            member=entry["member"],
        )
    else:
        knowledge = Outputs(
            tensors=entry["tensors"],
            dataset=entry["dataset"],
            fingerprint=entry["fingerprint"],
            ids=entry["ids"],
            version=entry["version"],
        )
    return RememberedKnowledge(entry["sender"], entry["session"], knowledge)
