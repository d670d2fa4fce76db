"""Where a peer of the demo stands: its row, with what its process says beside the peer's events."""

from dataclasses import dataclass

from peerlearn.cli.demo.child_events import Finished, Hello
from peerlearn.cli.progress import PeerProgress
from peerlearn.events import Event


@dataclass(slots=True)
class DemoProgress(PeerProgress):
    """A row of the demo's table."""

    classes: tuple[int, ...] = ()
    """The classes that the peer holds."""

    def seen(self, event: Event) -> None:
        match event:
            case Hello():
                self.name, self.rounds, self.classes = event.name, event.rounds, event.classes
            case Finished():
                self.phase = "done"
            case _:
                PeerProgress.seen(self, event)
