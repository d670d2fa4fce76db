"""Pairwise layer transfer: one layer is made from the providers' layers by small trained maps."""

from peerlearn.strategies.pairwise.strategy import Pairwise as Pairwise
