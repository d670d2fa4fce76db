"""Peers that say they show another certificate now: each is met again, because only a new connection can prove it."""

from collections.abc import Awaitable, Callable

from peerlearn.directory import Contact
from peerlearn.tasks import Background
from peerlearn.types import PeerId


class Rebinding:
    """One task per peer at most, however often the peer says so; `meet` introduces us to it over a new connection."""

    def __init__(self, tasks: Background, meet: Callable[[Contact], Awaitable[object]]) -> None:
        self._tasks = tasks
        self._meet = meet
        self._again: dict[PeerId, bool] = {}
        """By peer that is being met: whether it has said so again since that began."""

    def start(self, contact: Contact) -> None:
        """This peer sent a card that names another certificate."""
        if contact.id not in self._again:
            self._tasks.supervise(
                lambda: self._rebind(contact),
                name=f"rebind:{contact.id[:12]}",
                lost="a renewed certificate is not known",
            )
        self._again[contact.id] = True

    async def _rebind(self, contact: Contact) -> None:
        try:
            while self._again.get(contact.id):
                self._again[contact.id] = False
                await self._meet(contact)
        finally:
            self._again.pop(contact.id, None)
