"""The pairs of peers that meet in a round, drawn asynchronously or by all peers at once. For the gossip methods."""

import logging
from typing import Literal

from peerlearn.errors import ConfigError
from peerlearn.schedule import Exchange, Local, Publish, Schedule, Transfer
from peerlearn.types import epochs, steps

Pairing = Literal["auto", "lot", "pairs"]
"""How pairs are drawn.

* `lot`: each peer draws one neighbour, asks it and brings its own weights. The neighbour uses them after its present
  span (Boyd et al. 2006, the asynchronous model).
* `pairs`: all peers are drawn into pairs, and the two of a pair ask each other (the synchronous model).
* `auto`: `pairs` in lockstep, where runs must be repeatable, else `lot`.
"""

log = logging.getLogger("peerlearn")


class Meetings:
    """Chooses the pairing once the pace is known. Raises ConfigError for an unknown pairing."""

    def __init__(self, strategy: str, pairing: Pairing) -> None:
        if pairing not in ("auto", "lot", "pairs"):
            raise ConfigError(f"{strategy}: pairing {pairing!r} is not one of auto, lot, pairs")
        self._strategy = strategy
        self._pairing = pairing
        self.in_pairs = pairing == "pairs"

    def paced(self, *, lockstep: bool) -> None:
        """Choose for this pace. `lot` in lockstep works but is not repeatable, which is logged once."""
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
        """A local epoch, then one meeting. During the meeting the snapshot has the weights before it, afterwards those
        after it."""
        order: Literal["random", "pairs"] = "pairs" if self.in_pairs else "random"
        meeting = (Exchange(early=False, most=1, order=order), Transfer(steps(0)))
        on = {} if self.in_pairs else {"received": (Transfer(steps(0)),)}
        return Schedule(cycle=(Local(epochs(1)), Publish(), *meeting, Publish()), on=on)
