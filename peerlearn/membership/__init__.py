"""Finding one another and staying alive: introductions, watches, beats, goodbyes."""

from peerlearn.membership.membership import Membership
from peerlearn.membership.observer import Observer

__all__ = ["Membership", "Observer"]
