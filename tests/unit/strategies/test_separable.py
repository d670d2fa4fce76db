"""A method that mixes what several have brought is recognised by its methods, whatever kind of class it is."""

from collections.abc import Collection

from peerlearn.learning.learner import Learner
from peerlearn.learning.report import Report
from peerlearn.strategies.base import Base, Separable


class Plain(Base):
    """No dataclass, and nothing inherited from Separable."""

    def transfer_without(self, learner: Learner, absent: Collection[str]) -> Report:
        return Report()

    def transfer_done(self) -> None:
        return None


class Half(Base):
    def transfer_without(self, learner: Learner, absent: Collection[str]) -> Report:
        return Report()


def test_a_plain_class_with_both_methods_is_separable() -> None:
    assert isinstance(Plain(), Separable)


def test_one_of_the_two_methods_is_not_enough() -> None:
    assert not isinstance(Half(), Separable)
