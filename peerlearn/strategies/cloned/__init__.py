"""Cloned distillation: a hub learns from clones of its model that edges have trained."""

from peerlearn.strategies.cloned.strategy import Cloned as Cloned
