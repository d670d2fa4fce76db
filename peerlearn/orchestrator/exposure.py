"""What knowledge shows, and to whom it may be shown: decided here and nowhere else. Deny by default."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from peerlearn.errors import PeerRefused, RefusalReason
from peerlearn.knowledge import Answer, Knowledge, NotModified, Outputs, Query, Refusal, Sparse
from peerlearn.types import Card, Exposure
from peerlearn.wire.cards import is_peer_id

EVERYBODY = "*"

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
    """Who may see what. A rule for one peer, by its id (in full) or its name, stands instead of the one for everybody.
    Only an id is proof of who somebody is; a name counts while just one peer here has it."""

    everybody: frozenset[Exposure]
    rules: Mapping[str, frozenset[Exposure]] = field(default_factory=dict)

    @property
    def anybody(self) -> frozenset[Exposure]:
        """What at least one peer may see."""
        return self.everybody.union(*self.rules.values())

    def of(self, peer: Card, namesakes: Callable[[str], int]) -> frozenset[Exposure]:
        """What this peer may see; `namesakes`: how many peers here have a name."""
        if peer.id in self.rules:
            return self.rules[peer.id]
        if peer.name not in self.rules or is_peer_id(peer.name):
            return self.everybody
        return self.rules[peer.name] if namesakes(peer.name) == 1 else self.rules[peer.name] & self.everybody


@dataclass(frozen=True, slots=True)
class Showing:
    """Judges what one peer shows. `state`: names of all tensors of its model; `public`: fingerprints of the data sets
    that it holds in common with others; `namesakes`: how many peers of a name are here."""

    allowance: Allowance
    state: Collection[str]
    public: Collection[str]
    namesakes: Callable[[str], int]

    def check_query(self, want: str, peer: Card) -> None:
        """Raises PeerRefused(EXPOSURE) when nothing that this asks for may be shown to the peer."""
        kinds = {"params": _PARAMS, "outputs": _OUTPUTS}.get(want)
        if kinds is not None and not kinds & self._allowed(peer):
            raise PeerRefused(peer.name, RefusalReason.EXPOSURE, f"no {want} are shown to {peer.name}")

    def check_answer(self, answer: Answer, query: Query, peer: Card) -> None:
        """Raises PeerRefused(EXPOSURE) unless all that this shows may be shown to the peer."""
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
        """What this shows; None for something that has no exposure, and so may be shown to nobody.

        Layers that are asked for by name are layers, even if they are all that the model has; and a share of the
        weights is a share, even if all: whoever may ask for these may put a whole together from several answers.
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
