"""What the averaging methods share: who can be averaged with whom, and knowledge that waits to be used just once."""

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
    """Tensors of one peer at one version. `samples`: how many labelled ones its card showed; 0 when it shows none."""

    sender: str
    session: str
    version: int
    samples: int
    tensors: Mapping[str, Tensor]

    @property
    def mark(self) -> tuple[str, int]:
        return self.session, self.version


class Inbox:
    """At most one piece per sender waits. Every version of a sender is used once, however often and by whichever way
    (answer or question) it comes, and also when the gate has rolled its use back. Read in sender order.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, Piece] = {}
        self._heard: dict[str, tuple[str, int]] = {}
        self._used: dict[str, tuple[str, int]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def new(self, received: Sequence[Received]) -> list[Received]:
        """Those of another session, or of a later version, than anything heard of their senders."""
        return [each for each in received if self._is_new(each.sender, each.knowledge.version)]

    def put(self, received: Received, tensors: Mapping[str, Tensor]) -> None:
        """`tensors`: of this knowledge, as they have been checked."""
        sender = received.sender
        if self._is_new(sender, received.knowledge.version):
            samples = sum(sender.histogram)
            piece = Piece(sender.id, sender.session, received.knowledge.version, samples, tensors)
            self._waiting[sender.id], self._heard[sender.id] = piece, piece.mark

    def waiting(self) -> list[Piece]:
        """All that waits."""
        return [self._waiting[sender] for sender in sorted(self._waiting)]

    def take(self) -> list[Piece]:
        """All that waits; nothing waits any more."""
        pieces = self.waiting()
        self._used |= {piece.sender: piece.mark for piece in pieces}
        self._waiting.clear()
        return pieces

    def forget(self, sender: str) -> None:
        self._waiting.pop(sender, None)

    def heard(self, provider: Card) -> int | None:
        """The latest version that came from this provider in its present session."""
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
        """What this very object has used since stays used: the gate puts an older state back."""
        pieces = [Piece(sender=sender, **saved) for sender, saved in state["waiting"].items()]
        self._waiting = {p.sender: p for p in pieces if self._used.get(p.sender) != p.mark}
        self._heard = {sender: (str(session), int(version)) for sender, (session, version) in state["heard"].items()}

    def _is_new(self, sender: Card, version: int) -> bool:
        session, heard = self._heard.get(sender.id, ("", -1))
        return session != sender.session or version > heard


def unfit(learner: Learner, provider: Card) -> str | None:
    """Why the weights of these two cannot be averaged; None when they can."""
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
    """The knowledge as parameters of a peer that this learner can be averaged with, by the rule `misfit`. Raises
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
    """What others are given of this learner now; makes it when nothing has been published yet."""
    return learner.shown or learner.snapshot(0, publish(learner))


def brought(snapshot: Snapshot) -> Knowledge:
    """The snapshot's parameters, for a question: the very tensors and version that an answer would hold."""
    return Params(tensors=snapshot.state, architecture=snapshot.architecture, version=snapshot.version)


def own(learner: Learner) -> dict[str, Tensor]:
    """The learner's floating tensors as they are now, detached, on the CPU."""
    state = learner.state
    return {name: state[name].detach().cpu() for name in robust.floating(state)}


def content_key(state: Mapping[str, Tensor]) -> bytes:
    """Puts models in an order that all peers share though none knows where its own id stands: the first values of
    each floating tensor. So all who average the same models come to the same bits."""
    heads = [state[name].contiguous().reshape(-1)[:16] for name in sorted(state) if state[name].is_floating_point()]
    return b"".join([head.view(torch.uint8).numpy().tobytes() for head in heads])


def in_common_order(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces by the content of their tensors, see `content_key`."""
    return sorted(pieces, key=_content)


def _content(piece: Piece) -> bytes:
    return content_key(piece.tensors)
