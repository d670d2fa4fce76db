"""Pairwise layer transfer: small trained maps rewrite one layer from the providers' layers."""

from peerlearn.strategies.pairwise.strategy import Pairwise as Pairwise
