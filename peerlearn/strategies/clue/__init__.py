"""CLUE: on drift, borrow the few parameters that matter for the classes one lacks."""

from peerlearn.strategies.clue.strategy import Clue as Clue
