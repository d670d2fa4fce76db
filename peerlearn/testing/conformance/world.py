"""The peers of one check, and what two laws have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from peerlearn.testing.conformance.check import require
from peerlearn.testing.digests import bits, everything
from peerlearn.testing.direct import DirectPeer, DirectRounds
from peerlearn.testing.exchange import Member


@dataclass(frozen=True, slots=True)
class World:
    """Makes the peers of a check, anew for each run."""

    peers: Callable[[], Sequence[Member]]
    rounds: int

    def run(self, kind: type[DirectRounds] = DirectRounds) -> DirectRounds:
        """All rounds, by this kind of rounds. Raises AssertionError when no knowledge was exchanged though a schedule
        exchanges."""
        rounds = kind(self.peers())
        rounds.run(self.rounds)
        exchanging = any(peer.strategy.schedule.exchanges for peer in rounds.peers)
        require(
            rounds.answers or not exchanging,
            f"in {self.rounds} rounds no peer got an answer from another, so that nothing could be checked",
        )
        return rounds


def state_of(peer: DirectPeer) -> tuple[str, str]:
    """Digest of all that a call could change at this peer: of the learner, and of the strategy's saved state."""
    return everything(peer.learner), bits(peer.strategy.state_dict())
