"""Exposure control: decides what a piece of knowledge shows, and which peers may see it. Denies by default."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from peerlearn.errors import PeerRefused, RefusalReason
from peerlearn.knowledge import Answer, Knowledge, NotModified, Outputs, Query, Refusal, Sparse
from peerlearn.types import Card, Exposure
from peerlearn.wire.cards import is_peer_id

EVERYBODY = "*"
"""Key of the rule for all peers that have no rule of their own."""

_PARAMS = frozenset({Exposure.PARAMS_FULL, Exposure.PARAMS_LAYERS, Exposure.PARAMS_SIGNIFICANT})
_PRIVATE = {
    "feature": Exposure.PRIVATE_FEATURES,
    "embedding": Exposure.PRIVATE_FEATURES,
    "logits": Exposure.PRIVATE_LOGITS,
    "label": Exposure.PRIVATE_LABELS,
}
_OUTPUTS = frozenset({*_PRIVATE.values(), Exposure.PUBLIC_OUTPUTS})


@dataclass(frozen=True, slots=True)
class Allowance:
    """Allow-list of exposures. A rule for one peer, by its full id or its name, replaces the rule for everybody. Only
    an id is proof of identity: while several peers here have one name, a rule by this name can only narrow the rule for
    everybody."""

    everybody: frozenset[Exposure]
    rules: Mapping[str, frozenset[Exposure]] = field(default_factory=dict)

    @property
    def anybody(self) -> frozenset[Exposure]:
        """Every exposure that at least one peer may see."""
        return self.everybody.union(*self.rules.values())

    def of(self, peer: Card, namesakes: Callable[[str], int]) -> frozenset[Exposure]:
        """The exposures that this peer may see. `namesakes`: counts the peers here that have a given name."""
        if peer.id in self.rules:
            return self.rules[peer.id]
        if peer.name not in self.rules or is_peer_id(peer.name):
            return self.everybody
        return self.rules[peer.name] if namesakes(peer.name) == 1 else self.rules[peer.name] & self.everybody


@dataclass(frozen=True, slots=True)
class Showing:
    """Checks all knowledge that one peer sends against its allowance."""

    allowance: Allowance
    state: Collection[str]
    """Names of all tensors of the peer's model."""
    public: Collection[str]
    """Fingerprints of the data sets that the peer shares with others."""
    namesakes: Callable[[str], int]
    """Counts the peers here that have a given name."""

    def check_query(self, want: str, peer: Card) -> None:
        """Raises PeerRefused(EXPOSURE) if this peer may see nothing of the wanted kind ("params" or "outputs")."""
        kinds = {"params": _PARAMS, "outputs": _OUTPUTS}.get(want)
        if kinds is not None and not kinds & self._allowed(peer):
            raise PeerRefused(peer.name, RefusalReason.EXPOSURE, f"no {want} are shown to {peer.name}")

    def check_answer(self, answer: Answer, query: Query, peer: Card) -> None:
        """Raises PeerRefused(EXPOSURE) unless this peer may see everything that the answer shows."""
        if isinstance(answer, NotModified | Refusal):
            return
        allowed = self._allowed(peer)
        for exposure in self.shown(answer, query):
            covered = exposure in allowed or (exposure in _PARAMS and Exposure.PARAMS_FULL in allowed)
            if exposure is None or not covered:
                what = str(exposure) if exposure is not None else "what is of no known kind"
                raise PeerRefused(peer.name, RefusalReason.EXPOSURE, f"{what} is not shown to {peer.name}")

    def _allowed(self, peer: Card) -> frozenset[Exposure]:
        return self.allowance.of(peer, self.namesakes)

    def shown(self, knowledge: Knowledge, query: Query) -> frozenset[Exposure | None]:
        """The exposures of this knowledge; None stands for a part of no known kind, which no peer may see.

        Layers asked for by name count as PARAMS_LAYERS even if they are the whole model, and sparse weights count as
        PARAMS_SIGNIFICANT even if they are all weights: a consumer that may ask for these can assemble the whole model
        from several answers anyway.
        """
        if isinstance(knowledge, Outputs):
            if knowledge.fingerprint in self.public:
                return frozenset({Exposure.PUBLIC_OUTPUTS})
            return frozenset(_PRIVATE.get(name.partition("/")[0]) for name in knowledge.tensors)
        if not knowledge.tensors:
            return frozenset()
        if any(isinstance(tensor, Sparse) for tensor in knowledge.tensors.values()):
            return frozenset({Exposure.PARAMS_SIGNIFICANT})
        some = query.select or not knowledge.tensors.keys() >= set(self.state)
        return frozenset({Exposure.PARAMS_LAYERS if some else Exposure.PARAMS_FULL})
