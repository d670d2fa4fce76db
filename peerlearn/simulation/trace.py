"""What happened, as one number: two runs that differ in anything at all differ in it."""

import hashlib
import struct
from collections import Counter

from torch import Tensor

from peerlearn.events import Event, as_json


class Trace:
    """A hash over everything noted, in order, each with its virtual time; and how often each kind was."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.counts: Counter[str] = Counter()

    def event(self, at: float, who: str, event: Event) -> None:
        self.note(at, who, as_json(event, seconds=0.0), kind=event.kind)

    def note(self, at: float, who: str, text: str, *, kind: str) -> None:
        self.counts[kind] += 1
        self._hash.update(struct.pack("<d", at))
        self._hash.update(f"{who}\0{text}\0".encode())

    def state(self, who: str, state: dict[str, Tensor]) -> None:
        """A model as it is at the end, by its bytes."""
        for name in sorted(state):
            self._hash.update(f"{who}\0{name}\0".encode())
            self._hash.update(state[name].detach().cpu().contiguous().numpy().tobytes())

    @property
    def digest(self) -> str:
        """32 hex digits."""
        return self._hash.hexdigest()[:32]
