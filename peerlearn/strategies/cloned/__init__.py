"""Cloned distillation: a hub sends clones of its model to edges, and learns from the trained clones that come back."""

from peerlearn.strategies.cloned.strategy import Cloned as Cloned
