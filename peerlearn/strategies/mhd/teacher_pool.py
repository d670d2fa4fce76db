"""The pool of frozen teachers of multi-headed distillation, and their outputs on a public batch."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from peerlearn.errors import KnowledgeError
from peerlearn.knowledge import Knowledge, Outputs, Params
from peerlearn.learning.dataset import Unlabelled
from peerlearn.learning.learner import Learner
from peerlearn.strategies.mhd.heads import MultiHead
from peerlearn.strategies.mhd.public_window import EMBEDDING, Wanted, Window, table
from peerlearn.strategies.shared import teacher_checks


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A provider at one version: its outputs on the samples wanted, or its parameters. `born`: rises with each
    entry."""

    sender: str
    session: str
    wanted: Wanted
    knowledge: Knowledge
    born: int = 0

    @property
    def stamp(self) -> tuple[int, int, int]:
        """Order of one session's knowledge: by version, then by position in the public set."""
        return self.knowledge.version, self.wanted.window.epoch, self.wanted.window.position

    def speaks_of(self, public: Unlabelled, rows: Tensor) -> bool:
        """True if the entry has outputs on these rows, int64 (B,), of the public set. Parameters have them on all
        rows."""
        return isinstance(self.knowledge, Params) or bool(torch.isin(public.ids[rows], self.knowledge.ids).all())


class TeacherPool:
    """At most `size` entries, where a new one replaces the oldest of any provider. With size None: the latest entry of
    each provider. Iterates in (sender, stamp) order, so that the order of arrival does not change sums."""

    def __init__(self, size: int | None) -> None:
        self._size = size
        self._entries: list[Entry] = []
        self._latest: dict[str, tuple[str, tuple[int, int, int]]] = {}
        self._born = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(sorted(self._entries, key=lambda entry: (entry.sender, entry.stamp, entry.born)))

    def is_new(self, entry: Entry) -> bool:
        """True for another session, or for a later stamp than all of this provider's."""
        session, stamp = self._latest.get(entry.sender, ("", (-1, -1, -1)))
        return session != entry.session or entry.stamp > stamp

    def add(self, entry: Entry) -> None:
        """Add an entry that is new and has been checked."""
        if self._size is None:
            self._entries = [kept for kept in self._entries if kept.sender != entry.sender]
        self._entries.append(replace(entry, born=self._born))
        self._born += 1
        self._latest[entry.sender] = entry.session, entry.stamp
        if self._size is not None:
            self._entries = self._entries[-self._size :]

    def forget(self, sender: str) -> None:
        """Drop all entries of this provider."""
        self._entries = [kept for kept in self._entries if kept.sender != sender]
        self._latest.pop(sender, None)

    def missing(self) -> int:
        """Number of providers to ask: the free places, or one when the pool is full."""
        return max(1, (self._size or 0) - len(self))

    def version_of(self, provider: str, session: str) -> int | None:
        """Latest version held of this provider's session; None when there is none."""
        kept = [e.knowledge.version for e in self._entries if (e.sender, e.session) == (provider, session)]
        return max(kept, default=None)

    def state_dict(self) -> dict[str, Any]:
        """Entries are listed oldest first."""
        return {
            "entries": [_saved(entry) for entry in self._entries],
            "latest": {sender: [session, *stamp] for sender, (session, stamp) in self._latest.items()},
            "born": self._born,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._entries = [_restored(saved) for saved in state["entries"]]
        self._latest = {sender: (kept[0], (kept[1], kept[2], kept[3])) for sender, kept in state["latest"].items()}
        self._born = int(state["born"])


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """One teacher's outputs on a public batch: `logits` (B, C) of heads 0, 1, ...; `embedding` (B, d) if it was asked
    for."""

    logits: tuple[Tensor, ...]
    embedding: Tensor | None


class FrozenTeacher:
    """Reads one entry batch by batch. Outputs cover their own samples only. Parameters are turned into outputs for
    their window, as the provider would have done, and for the window `now` when theirs has passed."""

    def __init__(self, learner: Learner, public: Unlabelled, entry: Entry, now: Window) -> None:
        self._learner, self._public, self._entry = learner, public, entry
        self._where = torch.full((len(public),), -1, dtype=torch.int64)
        self._tensors: Mapping[str, Tensor] = {}
        self._network: MultiHead | None = None
        if isinstance(entry.knowledge, Outputs):
            self._read(public.rows(entry.knowledge.ids), entry.knowledge.tensors)
        else:
            network = learner.build(teacher_checks.dense(entry.knowledge))
            assert isinstance(network, MultiHead)
            self._network = network
            window = entry.wanted.window
            self._make(window if window.reaches(now, public) else now)

    def on(self, rows: Tensor, now: Window) -> Said | None:
        """Outputs for a batch of rows int64 (B,), the first of the window `now`; None when the entry does not cover
        them."""
        at = self._where[rows]
        if bool((at < 0).any()):
            if self._network is None:
                return None
            self._make(now)
            at = self._where[rows]
        here = {name: tensor[at].float().to(self._learner.device) for name, tensor in self._tensors.items()}
        logits = tuple(here[f"logits/{head}"] for head in range(self._entry.wanted.heads))
        return Said(logits, here.get(EMBEDDING))

    def _make(self, window: Window) -> None:
        assert self._network is not None
        rows = window.rows(self._public)
        x = self._public.x[rows]
        self._read(rows, table(self._network, x, self._entry.wanted, device=self._learner.device))

    def _read(self, rows: Tensor, tensors: Mapping[str, Tensor]) -> None:
        self._where.fill_(-1)
        self._where[rows] = torch.arange(len(rows))
        self._tensors = tensors


def check_network(learner: Learner, knowledge: Params, wanted: Wanted, public: Unlabelled) -> None:
    """Raises KnowledgeError unless these are all parameters of a network like the learner's, and its wanted outputs on
    some public samples are finite."""
    teacher_checks.check_teacher(learner, knowledge)
    network = learner.build(teacher_checks.dense(knowledge))
    assert isinstance(network, MultiHead)
    x = public.x[wanted.window.order(public).next()]
    for name, tensor in table(network, x, wanted, device=learner.device).items():
        if not bool(torch.isfinite(tensor).all()):
            raise KnowledgeError(f"the network made of these parameters gives {name} that are not finite")


def _saved(entry: Entry) -> dict[str, Any]:
    knowledge = entry.knowledge
    about: dict[str, Any] = {
        "sender": entry.sender,
        "session": entry.session,
        "born": entry.born,
        "window": asdict(entry.wanted.window),
        "heads": entry.wanted.heads,
        "embedding": entry.wanted.embedding,
        "version": knowledge.version,
        "tensors": dict(knowledge.tensors),
    }
    if isinstance(knowledge, Params):
        return {**about, "architecture": knowledge.architecture, "member": knowledge.member}
    return {**about, "dataset": knowledge.dataset, "ids": knowledge.ids}


def _restored(saved: Mapping[str, Any]) -> Entry:
    window = Window(**saved["window"])
    knowledge: Knowledge
    if "architecture" in saved:
        knowledge = Params(
            tensors=saved["tensors"],
            architecture=saved["architecture"],
            version=saved["version"],
            member=saved["member"],
        )
    else:
        knowledge = Outputs(
            dataset=saved["dataset"],
            fingerprint=window.fingerprint,
            ids=saved["ids"],
            tensors=saved["tensors"],
            version=saved["version"],
        )
    wanted = Wanted(window, saved["heads"], saved["embedding"])
    return Entry(saved["sender"], saved["session"], wanted, knowledge, saved["born"])
