"""The outputs that edges brought to a FedGKT hub: features, logits and labels by sample id, the latest of each edge."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from peerlearn.errors import KnowledgeError
from peerlearn.knowledge import Knowledge, Outputs, Received
from peerlearn.learning import plausible
from peerlearn.learning.learner import Learner
from peerlearn.learning.state import check_finite, dtype_name, fingerprint

DATASET = "private"
"""Name of the data set in outputs on an edge's private set."""
_NAMES = frozenset({"feature", "logits", "label"})
"""Names of the tensors that an edge brings."""


@dataclass(frozen=True, slots=True, eq=False)
class Brought:
    """One edge's outputs on all its private samples, ids rising: feature (N, ...), logits (N, C), label int64 (N,).
    `arrival`: a rising number; `start`: fingerprint of the edge's initial weights."""

    sender: str
    session: str
    version: int
    arrival: int
    fingerprint: str
    ids: Tensor
    feature: Tensor
    logits: Tensor
    label: Tensor
    start: str

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """The hub's logits (N, C) on one edge's samples, with ids int64 (N,), rising."""

    fingerprint: str
    ids: Tensor
    logits: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Replies:
    """What a hub publishes with its snapshot: its logits for each edge, by the edge's id."""

    classes: int
    by_edge: Mapping[str, Reply]

    def on(self, edge: str, mark: str, version: int) -> Outputs:
        """The outputs for this edge on its private set with fingerprint `mark`; without samples when the hub has none
        for that set."""
        reply = self.by_edge.get(edge)
        if reply is None or reply.fingerprint != mark:
            reply = Reply(mark, torch.empty(0, dtype=torch.int64), torch.empty(0, self.classes))
        return Outputs(
            dataset=DATASET, fingerprint=mark, ids=reply.ids, tensors={"logits": reply.logits}, version=version
        )


def mark_of(ids: Tensor, label: Tensor) -> str:
    """Fingerprint of a private set from what its edge shows: ids int64 (N,), rising, and labels (N,)."""
    return fingerprint({"ids": ids, "label": label.long()})


def check_brought(knowledge: Knowledge, feature_shape: tuple[int, ...], classes: int) -> Outputs:
    """Raises KnowledgeError unless these are features, logits and labels of a whole set, finite, and of the hub's
    shapes."""
    if not isinstance(knowledge, Outputs) or knowledge.dataset != DATASET:
        raise KnowledgeError("an edge brings outputs on its private samples, and nothing else")
    if set(knowledge.tensors) != _NAMES:
        raise KnowledgeError(f"outputs named {', '.join(sorted(knowledge.tensors)) or 'nothing'} came")
    n = len(knowledge.ids)
    if n == 0 or knowledge.ids.dtype != torch.int64 or len(knowledge.ids.unique()) < n:
        raise KnowledgeError("sample ids must be int64, at least one, and none of them twice")
    _check(knowledge, "feature", (n, *feature_shape), (torch.float32, torch.float16))
    _check(knowledge, "logits", (n, classes), (torch.float32,))
    _check(knowledge, "label", (n,), (torch.uint8, torch.int64))
    label = knowledge.tensors["label"].long()
    if not bool(((label >= 0) & (label < classes)).all()):
        raise KnowledgeError(f"labels must lie in 0..{classes - 1}")
    order = knowledge.ids.argsort()
    if knowledge.fingerprint != mark_of(knowledge.ids[order], label[order]):
        raise KnowledgeError("the fingerprint is not that of the ids and labels that came")
    return knowledge


def _check(outputs: Outputs, name: str, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...]) -> None:
    tensor = outputs.tensors[name]
    if tuple(tensor.shape) != shape or tensor.dtype not in dtypes:
        raise KnowledgeError(f"{name} must be {shape}, not {dtype_name(tensor)} {tuple(tensor.shape)}")
    check_finite(name, tensor)


class FeatureStore:
    """At most one entry per edge. Knows which entries came after the hub's last training, and when it should train
    again."""

    def __init__(self) -> None:
        self._kept: dict[str, Brought] = {}
        self._arrivals = 0
        self._impatient = 0
        """The latest arrival of an edge that came twice without a training in between."""
        self._trained = 0
        """The latest arrival that the hub has trained on. A rollback does not reset it."""

    def is_new(self, received: Received) -> bool:
        """True for another session or a later version than this edge's entry."""
        kept = self._kept.get(received.sender.id)
        return kept is None or kept.session != received.sender.session or (received.knowledge.version > kept.version)

    def keep(self, received: Received, outputs: Outputs) -> None:
        """Store outputs that are new and have been checked, sorted by id."""
        sender = received.sender.id
        self._arrivals += 1
        if any(entry.sender == sender for entry in self.fresh()):
            self._impatient = self._arrivals
        order = outputs.ids.argsort()
        self._kept[sender] = Brought(
            sender=sender,
            session=received.sender.session,
            version=outputs.version,
            arrival=self._arrivals,
            fingerprint=outputs.fingerprint,
            ids=outputs.ids[order],
            feature=outputs.tensors["feature"][order],
            logits=outputs.tensors["logits"][order],
            label=outputs.tensors["label"][order].long(),
            start=received.sender.start,
        )

    def check_sense(self, learner: Learner, sender: str, outputs: Outputs, *, logits: bool) -> None:
        """Raises KnowledgeError for implausible outputs (learning/plausible.py): features unlike the other edges', or
        for which the hub's network gives implausible outputs; and with `logits`, logits that contradict the edge's own
        labels."""
        feature = outputs.tensors["feature"]
        others = [entry.feature[plausible.some(len(entry))] for entry in self.all() if entry.sender != sender]
        plausible.check_features(feature, others)
        rows = plausible.some(len(feature))
        read = learner.logits(feature[rows].float())
        if not bool(torch.isfinite(read).all()):
            raise KnowledgeError("the hub's network makes outputs of these feature maps that are not finite")
        plausible.check_logits(read, lambda: torch.zeros(1))
        if logits:
            theirs, label = outputs.tensors["logits"], outputs.tensors["label"].long()[rows]
            plausible.check_logits(theirs, lambda: read)
            plausible.check_labels(theirs[rows], label, seen=torch.bincount(label).tolist(), own=lambda: read * 0)

    def forget(self, sender: str) -> None:
        """Drop this edge's entry."""
        self._kept.pop(sender, None)

    def all(self) -> list[Brought]:
        """All entries in edge-id order, so that the order of arrival does not matter."""
        return [self._kept[sender] for sender in sorted(self._kept)]

    def fresh(self) -> list[Brought]:
        """Entries that came after the hub's last training, in edge-id order."""
        return [entry for entry in self.all() if entry.arrival > self._trained]

    def due(self, edges: int) -> bool:
        """True if the hub should train now: `edges` edges have come since the last training, or one of them has come
        twice."""
        fresh = len(self.fresh())
        return fresh >= edges or (fresh > 0 and self._impatient > self._trained)

    def settle(self) -> int:
        """Mark all entries as trained on. Returns the value to pass to `reopen` to undo this."""
        before, self._trained = self._trained, self._arrivals
        return before

    def reopen(self, trained: int) -> None:
        """Undo the last `settle`: the training was interrupted and will be repeated."""
        self._trained = trained

    def histogram(self, classes: int) -> tuple[int, ...]:
        """Samples per class over all entries."""
        labels = [entry.label for entry in self.all()]
        return tuple(torch.bincount(torch.cat(labels), minlength=classes).tolist()) if labels else (0,) * classes

    def state_dict(self) -> dict[str, Any]:
        return {
            "kept": [{name: getattr(entry, name) for name in Brought.__slots__} for entry in self.all()],
            "arrivals": self._arrivals,
            "impatient": self._impatient,
            "trained": self._trained,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._kept = {kept["sender"]: Brought(**kept) for kept in state["kept"]}
        self._arrivals, self._impatient = int(state["arrivals"]), int(state["impatient"])
        self._trained = max(self._trained, int(state["trained"]))
