"""What any strategy must keep to, whatever it teaches."""

from collections.abc import Callable, Sequence

from peerlearn.learning.learner import Learner
from peerlearn.strategies.base import Strategy
from peerlearn.testing.conformance import answering, learning
from peerlearn.testing.conformance.check import Check, checks_of
from peerlearn.testing.conformance.world import World
from peerlearn.testing.exchange import Member
from peerlearn.testing.learners import Normed, tiny_data, tiny_learner
from peerlearn.types import epochs

PUBLIC = tiny_data(samples=40, seed=77).unlabelled("public")
"""The public set that the usual three peers hold."""


def usual(make: Callable[[], Strategy]) -> Callable[[], Sequence[Member]]:
    """Three peers of this strategy with a common start, batch normalisation, dropout and a public set, each trained for
    two epochs on 48 samples of its own."""

    def members() -> Sequence[Member]:
        return [(name, _trained(seed), make()) for seed, name in enumerate(("amber", "birch", "cedar"))]

    return members


def strategy(
    make: Callable[[], Strategy] | None = None,
    *,
    peers: Callable[[], Sequence[Member]] | None = None,
    rounds: int = 2,
) -> tuple[Check, ...]:
    """The checks that any strategy must pass.

        @pytest.mark.parametrize("check", conformance.strategy(Mutual), ids=str)
        def test_mutual_keeps_to_the_contract(check):
            check()

    make: a new strategy, anew for each of the usual three peers.
    peers: instead of it, all peers of one run, new ones at each call and the same bits each time: for a method with
        roles, or with models or data of its own. (name, learner, strategy) each, trained beforehand if the method needs
        that. They must learn from one another within `rounds` rounds.
    rounds: rounds of each check, of the peers' own schedules.

    Raises ValueError unless exactly one of `make` and `peers` is given.
    """
    if (make is None) == (peers is None):
        raise ValueError("give one of `make` and `peers`")
    members = usual(make) if make is not None else peers
    assert members is not None
    return checks_of([*answering.LAWS, *learning.LAWS], World(members, rounds))


def _trained(seed: int) -> Learner:
    learner = tiny_learner(seed, data=tiny_data(samples=48, seed=seed), model=Normed(), public_sets=[PUBLIC])
    learner.fit(epochs(2))
    return learner
