"""Which two peers meet in a round: by asynchronous draw, or in pairs. Shared by the methods of the gossip family."""

from typing import Literal

from peerlearn.errors import ConfigError
from peerlearn.schedule import Exchange, Local, Publish, Schedule, Transfer
from peerlearn.types import epochs, steps

Pairing = Literal["lot", "pairs"]


def meetings(pairing: Pairing) -> Schedule:
    """A local epoch, then one meeting. What is shown between the two is the weights before it, afterwards those after.

    `lot`: each peer draws one neighbour, asks it and brings its own weights, which the neighbour uses as soon as its
    span under way has ended. `pairs`: all are drawn into pairs, and the two of a pair ask each other.
    """
    order: Literal["random", "pairs"] = "random" if pairing == "lot" else "pairs"
    meeting = (Exchange(early=False, most=1, order=order), Transfer(steps(0)))
    on = {"received": (Transfer(steps(0)),)} if pairing == "lot" else {}
    return Schedule(cycle=(Local(epochs(1)), Publish(), *meeting, Publish()), on=on)


def check_pairing(strategy: str, pairing: str) -> None:
    if pairing not in ("lot", "pairs"):
        raise ConfigError(f"{strategy}: pairing {pairing!r} is not one of lot, pairs")
