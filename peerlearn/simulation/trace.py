"""A digest of everything that happened in a run: runs that differ in anything have different digests."""

import hashlib
import struct
from collections import Counter

from torch import Tensor

from peerlearn.events import Event, Recorded, as_json


class Trace:
    """A hash over everything noted, in order and with its virtual time, and the number of notes of each kind."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.counts: Counter[str] = Counter()

    def event(self, at: float, who: str, event: Event) -> None:
        """Note an event of the peer `who`."""
        self.note(at, who, as_json(Recorded(event=event)), kind=event.kind)

    def note(self, at: float, who: str, text: str, *, kind: str) -> None:
        """Note a text at a virtual time in seconds."""
        self.counts[kind] += 1
        self._hash.update(struct.pack("<d", at))
        self._hash.update(f"{who}\0{text}\0".encode())

    def state(self, who: str, state: dict[str, Tensor]) -> None:
        """Add the bytes of a final model to the hash."""
        for name in sorted(state):
            self._hash.update(f"{who}\0{name}\0".encode())
            self._hash.update(state[name].detach().cpu().contiguous().numpy().tobytes())

    @property
    def digest(self) -> str:
        """The hash, 32 hex digits."""
        return self._hash.hexdigest()[:32]
