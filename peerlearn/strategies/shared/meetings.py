"""Which two peers meet in a round: by asynchronous draw, or in pairs. Shared by the methods of the gossip family."""

import logging
from typing import Literal

from peerlearn.errors import ConfigError
from peerlearn.schedule import Exchange, Local, Publish, Schedule, Transfer
from peerlearn.types import epochs, steps

Pairing = Literal["auto", "lot", "pairs"]
"""`lot`: each peer draws one neighbour, asks it and brings its own weights, which the neighbour uses as soon as its
span under way has ended (Boyd et al. 2006, the asynchronous model). `pairs`: all peers are drawn into pairs, and the two
of a pair ask each other (the synchronous model). `auto`: pairs in lockstep, where runs must be repeatable, else lot."""

log = logging.getLogger("peerlearn")


class Meetings:
    """Resolves a pairing once the pace is known. Raises ConfigError for a pairing that is none."""

    def __init__(self, strategy: str, pairing: Pairing) -> None:
        if pairing not in ("auto", "lot", "pairs"):
            raise ConfigError(f"{strategy}: pairing {pairing!r} is not one of auto, lot, pairs")
        self._strategy = strategy
        self._pairing = pairing
        self.in_pairs = pairing == "pairs"

    def paced(self, *, lockstep: bool) -> None:
        """Choose for this pace. A lot in lockstep is possible but not repeatable, which is said once."""
        if self._pairing == "auto":
            self.in_pairs = lockstep
        elif self._pairing == "lot" and lockstep:
            log.warning(
                "%s: pairing 'lot' uses what others bring when it arrives, so that lockstep runs of more than two "
                "peers are not repeatable; set pairing='pairs' for the same bits in every run",
                self._strategy,
            )

    @property
    def schedule(self) -> Schedule:
        """A local epoch, then one meeting. Between the two the weights before it are shown, afterwards those after."""
        order: Literal["random", "pairs"] = "pairs" if self.in_pairs else "random"
        meeting = (Exchange(early=False, most=1, order=order), Transfer(steps(0)))
        on = {} if self.in_pairs else {"received": (Transfer(steps(0)),)}
        return Schedule(cycle=(Local(epochs(1)), Publish(), *meeting, Publish()), on=on)
