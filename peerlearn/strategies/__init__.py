"""The learning methods, one module or package per paper. `make("pairwise", alpha=0.7)` builds one by name; importing
this package imports no torch."""

from peerlearn.strategies.registry import make, names

__all__ = ["make", "names"]
