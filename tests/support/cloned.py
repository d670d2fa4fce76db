"""Small settings of cloned distillation: a hub, and two edges that take turns."""

from typing import Any

from peerlearn.learning.learner import Learner
from peerlearn.strategies.cloned.strategy import Cloned
from peerlearn.testing import (
    blob_learner,
)


def hub_of(**more: Any) -> Cloned:
    return Cloned(**{"role": "hub", "members": 2, "first_epochs": 2, "hub_epochs": 2, **more})


def edge_of(**more: Any) -> Cloned:
    return Cloned(**{"role": "edge", "members": 2, "edge_epochs": 2, **more})


TURNS = {"hub": 0, "first": 1, "second": 2}


def made_of(name: str) -> tuple[Learner, Cloned]:
    its = blob_learner([0, 1, 2, 3], TURNS[name], amount=120)
    if name == "hub":
        return its, hub_of(first_epochs=1, hub_epochs=2)
    return its, edge_of(edge_epochs=1, hub="hub", turn=TURNS[name])
