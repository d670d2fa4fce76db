"""One paper, one file. `make("pairwise", alpha=0.7)` by name; importing this package imports no torch."""

from peerlearn.strategies.registry import make, names

__all__ = ["make", "names"]
