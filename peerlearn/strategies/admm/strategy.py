"""Gossip by ADMM: a penalty on the distance of their weights pulls neighbours together, edge by edge.

Vanhaesebrouck, Bellet and Tommasi 2017, "Decentralized collaborative learning of personalized models", section 4,
minimise sum_i L_i(theta_i) + sum_{i<j} w_ij |theta_i - theta_j|^2. Here each meeting takes one symmetric message, with
scaled duals and an inexact primal step (the local span).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from peerlearn.errors import ConfigError
from peerlearn.knowledge import Answer, Params, Query, Question, Received
from peerlearn.learning.interruption import Diverged
from peerlearn.learning.learner import Batch, Learner
from peerlearn.learning.plausible import check_scale
from peerlearn.learning.report import Report
from peerlearn.learning.snapshot import Snapshot
from peerlearn.learning.state import check_fit
from peerlearn.schedule import Schedule
from peerlearn.strategies.admm.edge_terms import Duals, EdgeState, Pull, coupling_of, settled
from peerlearn.strategies.base import Asked, Base
from peerlearn.strategies.shared import answers, averaging, teacher_checks
from peerlearn.strategies.shared.averaging import Inbox
from peerlearn.strategies.shared.meetings import Meetings, Pairing
from peerlearn.types import Card, Exposure, Span


@dataclass
class AdmmGossip(Base):
    """Local loss: own loss + rho/2 sum_e |theta - z_e + u_e|^2, over the edges e to peers that were met and are
    present.

    When i and j meet, each sends q = theta + u_e, and both update their end of the edge (`edge_terms.settled`). Weights
    change in local training only.

    `rho`: strength of the pull towards z. 1e-2 is the value of the pairwise paper's code for this baseline; a larger
    one slows down private learning. `weight`: w, how strongly the two ends of an edge should agree; 0: not at all, inf:
    fully. `pairing`: how pairs are drawn, as in Gossip. A first meeting creates an edge. An edge to an absent peer
    rests until that peer is back; an edge to a peer that has restarted starts anew. Trained parameters take part;
    buffers (BatchNorm's) stay local.
    """

    name: ClassVar[str] = "admm-gossip"

    rho: float = 1e-2
    weight: float = 1.0
    pairing: Pairing = "auto"

    _inbox: Inbox = field(default_factory=Inbox, init=False, repr=False)
    _edges: dict[str, EdgeState] = field(default_factory=dict, init=False, repr=False)
    _here: frozenset[str] | None = field(default=None, init=False, repr=False)
    _pull: Pull | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._meetings = Meetings(self.name, self.pairing)
        if not 0 < self.rho < math.inf:
            raise ConfigError(f"{self.name}: rho must be positive, not {self.rho}")
        if not self.weight >= 0:
            raise ConfigError(f"{self.name}: weight must be at least 0, or inf, not {self.weight}")

    @property
    def needs(self) -> frozenset[Exposure]:
        return frozenset({Exposure.PARAMS_FULL})

    @property
    def exposes(self) -> frozenset[Exposure]:
        return frozenset({Exposure.PARAMS_FULL})

    @property
    def schedule(self) -> Schedule:
        return self._meetings.schedule

    def paced(self, *, lockstep: bool) -> None:
        self._meetings.paced(lockstep=lockstep)

    def misfit(self, learner: Learner, provider: Card) -> str | None:
        return averaging.unfit(learner, provider)

    def prefer(self, learner: Learner, candidates: Sequence[Card]) -> None:
        """No preference, but peers that are not among the candidates count as absent."""
        self._here, self._pull = frozenset(card.id for card in candidates), None

    # ---- the meeting

    def publish(self, learner: Learner) -> Duals:
        return Duals(tuple(_trained(learner.model)), dict(self._edges))

    def ask(self, learner: Learner, provider: Card) -> Question:
        query = Query(want="params", select={"edge": "q"})
        if self._meetings.in_pairs:
            return Question(query)
        return Question(query, brings=_proposed(averaging.shown(learner, self.publish), provider))

    def answer(self, snapshot: Snapshot, asked: Asked) -> Answer:
        query = asked.question.query
        if query.want == "params" and dict(query.select) == {"edge": "q"}:
            return _proposed(snapshot, asked.consumer)
        return answers.not_mine(self.name, query)

    def absorb(self, learner: Learner, received: Sequence[Received]) -> None:
        new = self._inbox.new(received)
        wanted = _trained(learner.model)
        for each in new:
            check_scale(check_fit(averaging.admitted(learner, each).tensors, wanted, whole=True), wanted)
        for each in new:
            self._inbox.put(each, teacher_checks.dense(each.knowledge))

    def forget(self, provider: str) -> None:
        self._inbox.forget(provider)

    def transfer(self, learner: Learner, span: Span) -> Report:
        """Make the z-step and dual step of each edge with a new message, from this peer's own published q. Makes no
        steps and changes no weights."""
        shown = averaging.shown(learner, self.publish)
        pieces = self._inbox.take()
        for piece in pieces:
            mine = shown.extras.proposal(shown.state, piece.sender, piece.session)
            coupling = coupling_of(self.rho, self.weight)
            self._edges[piece.sender] = settled(mine, piece.tensors, session=piece.session, coupling=coupling)
            self._pull = None
        return Report(providers=tuple(piece.sender for piece in pieces))

    # ---- the pull

    def extra_loss(self, model: nn.Module, batch: Batch) -> Tensor | None:
        if not self._drawing():
            return None
        if self._pull is None:
            self._pull = Pull(self._drawing(), model)
        return self.rho / 2 * self._pull(model)

    def local(self, learner: Learner, span: Span) -> Report:
        """Train under the pull. When that diverges, some peer has sent weights from far away: all edges are then
        dropped, and the span is repeated without them."""
        drawing = len(self._drawing())
        if not drawing:
            return learner.fit(span)
        mark = learner.mark()
        try:
            return learner.fit(span, extra_loss=self.extra_loss)
        except Diverged:
            learner.restore(mark)
        self._edges, self._pull = {}, None
        return replace(learner.fit(span), notes={"edges_dropped": drawing})

    def _drawing(self) -> list[EdgeState]:
        """Edges to present peers, in id order."""
        return [edge for other, edge in sorted(self._edges.items()) if self._here is None or other in self._here]

    # ---- state

    def state_dict(self) -> Mapping[str, Any]:
        return {
            **self._inbox.state_dict(),
            "edges": {other: edge.state_dict() for other, edge in sorted(self._edges.items())},
            "here": None if self._here is None else sorted(self._here),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._inbox.load_state_dict(state)
        self._edges = {other: EdgeState(**saved) for other, saved in state["edges"].items()}
        self._here = None if state["here"] is None else frozenset(state["here"])
        self._pull = None


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad and p.is_floating_point()}


def _proposed(snapshot: Snapshot, other: Card) -> Params:
    duals: Duals = snapshot.extras
    tensors = duals.proposal(snapshot.state, other.id, other.session)
    return Params(tensors=tensors, architecture=snapshot.architecture, version=snapshot.version)
