"""Shared parts of the averaging methods: which models can be averaged, and an inbox whose knowledge is used once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from peerlearn.errors import KnowledgeError
from peerlearn.knowledge import Knowledge, Params, Received
from peerlearn.learning.learner import Learner
from peerlearn.learning.snapshot import Snapshot
from peerlearn.strategies.shared import robust
from peerlearn.types import Card


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """One peer's tensors at one version. `samples`: its number of labelled samples by its card; 0 when not shown."""

    sender: str
    session: str
    version: int
    samples: int
    tensors: Mapping[str, Tensor]

    @property
    def mark(self) -> tuple[str, int]:
        """Session and version, which identify the piece among its sender's."""
        return self.session, self.version


class Inbox:
    """Received models that wait, at most one per sender. Each version of a sender is used once, even if it comes
    several times, as an answer or with a question, and even if the gate rolled its use back. Read in sender order."""

    def __init__(self) -> None:
        self._waiting: dict[str, Piece] = {}
        self._heard: dict[str, tuple[str, int]] = {}
        self._used: dict[str, tuple[str, int]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def new(self, received: Sequence[Received]) -> list[Received]:
        """Knowledge of another session, or of a later version, than all that came from its sender before."""
        return [each for each in received if self._is_new(each.sender, each.knowledge.version)]

    def put(self, received: Received, tensors: Mapping[str, Tensor]) -> None:
        """Let this knowledge wait. `tensors`: its tensors after the check."""
        sender = received.sender
        if self._is_new(sender, received.knowledge.version):
            samples = sum(sender.histogram)
            piece = Piece(sender.id, sender.session, received.knowledge.version, samples, tensors)
            self._waiting[sender.id], self._heard[sender.id] = piece, piece.mark

    def waiting(self) -> list[Piece]:
        """All waiting models."""
        return [self._waiting[sender] for sender in sorted(self._waiting)]

    def take(self) -> list[Piece]:
        """All waiting models, which count as used from now on."""
        pieces = self.waiting()
        self._used |= {piece.sender: piece.mark for piece in pieces}
        self._waiting.clear()
        return pieces

    def forget(self, sender: str) -> None:
        """Drop the waiting model of this sender."""
        self._waiting.pop(sender, None)

    def heard(self, provider: Card) -> int | None:
        """The latest version that came from this provider in its present session; None when there is none."""
        session, version = self._heard.get(provider.id, ("", 0))
        return version if session == provider.session else None

    def state_dict(self) -> dict[str, Any]:
        return {
            "waiting": {
                sender: {"session": p.session, "version": p.version, "samples": p.samples, "tensors": dict(p.tensors)}
                for sender, p in sorted(self._waiting.items())
            },
            "heard": {sender: list(mark) for sender, mark in sorted(self._heard.items())},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state. Models that this object has used since stay used, because the gate restores
        older states."""
        pieces = [Piece(sender=sender, **saved) for sender, saved in state["waiting"].items()]
        self._waiting = {p.sender: p for p in pieces if self._used.get(p.sender) != p.mark}
        self._heard = {sender: (str(session), int(version)) for sender, (session, version) in state["heard"].items()}

    def _is_new(self, sender: Card, version: int) -> bool:
        session, heard = self._heard.get(sender.id, ("", -1))
        return session != sender.session or version > heard


def unfit(learner: Learner, provider: Card) -> str | None:
    """One sentence about why these two models cannot be averaged; None when they can."""
    mine = learner.describe()
    if provider.architecture != mine.architecture:
        return (
            f"averaging needs one architecture: {provider.name} has another than this model; "
            f"use distillation with a common public set instead"
        )
    if provider.start != mine.start:
        return (
            f"averaging needs a common start: {provider.name} began from other weights than this model; "
            f"build both from one seed or one checkpoint"
        )
    return None


def admitted(learner: Learner, received: Received, misfit: Callable[[Learner, Card], str | None] = unfit) -> Params:
    """The knowledge as parameters that may be averaged with this learner's, by the rule `misfit`. Raises
    KnowledgeError."""
    knowledge = received.knowledge
    if not isinstance(knowledge, Params):
        raise KnowledgeError("outputs came where parameters were asked for")
    if knowledge.member != 0:
        raise KnowledgeError(f"member {knowledge.member} of an ensemble came where one model was asked for")
    if (why := misfit(learner, received.sender)) is not None:
        raise KnowledgeError(why)
    if knowledge.architecture != learner.architecture:
        raise KnowledgeError(f"{received.sender.name} sent parameters of another architecture than its card names")
    return knowledge


def shown(learner: Learner, publish: Callable[[Learner], Any]) -> Snapshot:
    """The learner's published snapshot; a new one with version 0 when none has been published."""
    return learner.shown or learner.snapshot(0, publish(learner))


def brought(snapshot: Snapshot) -> Knowledge:
    """The snapshot's parameters as knowledge to bring: the same tensors and version that an answer would have."""
    return Params(tensors=snapshot.state, architecture=snapshot.architecture, version=snapshot.version)


def own(learner: Learner) -> dict[str, Tensor]:
    """The learner's present floating tensors, detached, on the CPU."""
    state = learner.state
    return {name: state[name].detach().cpu() for name in robust.floating(state)}


def content_key(state: Mapping[str, Tensor]) -> bytes:
    """Sort key of a model: the first 16 values of each floating tensor. All peers that average the same models sort
    them equally, and so get the same bits, although no peer's id is known to its own strategy."""
    heads = [state[name].contiguous().reshape(-1)[:16] for name in sorted(state) if state[name].is_floating_point()]
    return b"".join([head.view(torch.uint8).numpy().tobytes() for head in heads])


def in_common_order(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces sorted by the content of their tensors, see `content_key`."""
    return sorted(pieces, key=_content)


def _content(piece: Piece) -> bytes:
    return content_key(piece.tensors)
