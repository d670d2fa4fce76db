"""View: the directory as the orchestrator sees it, with the peers that said goodbye and a wait for changes."""

from collections.abc import Callable

from peerlearn.directory import Change, Directory
from peerlearn.tasks import Notifier
from peerlearn.types import Card, PeerId


class View:
    """Implements `orchestrator.directory_view.DirectoryView`. `heed` must be called for each change of the directory.
    Lives on the event loop."""

    def __init__(
        self,
        directory: Directory,
        changed: Notifier,
        doubt: Callable[[PeerId], None],
        complain: Callable[[PeerId, str], None],
    ) -> None:
        """changed: notified after every change. doubt: called with a peer to which a call failed. complain: tells a
        provider why its knowledge is not used."""
        self.alive = directory.alive
        self.doubt = doubt
        self.complain = complain
        self.get = directory.get
        self.news = changed.wait
        self._notify = changed.notify
        self._directory = directory
        self._left: set[PeerId] = set()

    def card(self, peer: PeerId) -> Card | None:
        """The card of a confirmed peer; None if the peer is unknown or gone."""
        contact = self._directory.get(peer)
        return contact.card if contact is not None else None

    def left(self, peer: PeerId) -> bool:
        """True if this peer said goodbye and is not back."""
        return peer in self._left

    def heed(self, change: Change) -> None:
        """Take note of a change of the directory."""
        if change.what == "left":
            # Only those that the directory still remembers, so that the set stays as small as the directory.
            self._left = {contact.id for contact in self._directory if contact.id in self._left} | {change.contact.id}
        elif change.of_life:
            self._left.discard(change.contact.id)
        self._notify()
