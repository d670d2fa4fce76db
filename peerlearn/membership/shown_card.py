"""ShownCard: keeps a peer's card up to date with its learning (latest version, class counts, providers)."""

from dataclasses import replace

from peerlearn.membership.membership import Membership
from peerlearn.types import Card, PeerId


class ShownCard:
    """The card of this peer that others see. Lives on the event loop."""

    def __init__(self, card: Card, membership: Membership, *, counts: bool) -> None:
        """`counts`: True if class counts are shown to everybody."""
        self._first = card
        self._membership = membership
        self._counts = counts
        self.joined = False
        """True once this peer is announced to others."""

    def at(self, version: int) -> Card:
        """The card with which the peer joins, at this version."""
        return replace(self._first, version=version)

    def show_version(self, version: int, histogram: tuple[int, ...]) -> None:
        """Announce a snapshot. The card itself is sent only if it shows class counts and these have changed: a version
        alone fits into a short notice."""
        shown = histogram if self._counts else ()
        if self.joined and shown != self._membership.card.histogram:
            self._membership.update(replace(self._membership.card, histogram=shown, version=version))
        else:
            self._first = replace(self._first, histogram=shown)
            self._membership.announce_version(version)

    def show_teachers(self, taught_by: tuple[PeerId, ...]) -> None:
        """Put the providers that this peer learns from on the card, which is sent only if they have changed."""
        if taught_by != self._membership.card.learns_from:
            self._membership.update(replace(self._membership.card, learns_from=taught_by))
