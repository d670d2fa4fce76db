"""CLUE: when the stream drifts, a peer borrows the few parameters that matter for the classes it lacks."""

from peerlearn.strategies.clue.strategy import Clue as Clue
