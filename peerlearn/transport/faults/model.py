"""What a bad network does to frames: it delays, loses, doubles, swaps, changes and throttles them, all from one seed.

Pure: no waiting here. Times are seconds on whatever clock the caller reads.
"""

import hashlib
import math
from collections import Counter
from dataclasses import dataclass
from random import Random

from peerlearn.errors import ConfigError
from peerlearn.types import Address

SHARES = ("loss", "duplication", "reordering", "corruption")
LAG = 0.05
"""Seconds that a frame which is to be overtaken waits for the one that overtakes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Of one direction of a link. Shares are of frames, each judged for itself; an end of a call is always told.

    A lost frame never arrives; a doubled one arrives twice; a reordered one is overtaken by the next of its call, if
    that comes within `LAG`; of a corrupted one a single bit is flipped.
    """

    delay: float = 0.0
    """Seconds that every frame is under way."""
    jitter: float = 0.0
    """Up to so many seconds more, drawn for each frame. Frames of one call keep their order."""
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    corruption: float = 0.0
    bandwidth: float | None = None
    """Bytes per second, of all calls on the link together; None: as many as come."""

    def __post_init__(self) -> None:
        for name in ("delay", "jitter"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be seconds, 0 or more, not {getattr(self, name):g}")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be a share between 0 and 1, not {getattr(self, name):g}")
        if self.bandwidth is not None and not 0 < self.bandwidth < math.inf:
            raise ConfigError(f"bandwidth must be bytes per second, more than 0, not {self.bandwidth:g}")

    @property
    def drawn(self) -> bool:
        """Whether a frame's fate is a matter of chance."""
        return bool(self.jitter or any(getattr(self, name) for name in SHARES))


NONE = Faults()


@dataclass(frozen=True, slots=True)
class Fate:
    """Of one frame: what arrives in its place (nothing, once, or twice), when, and whether the next overtakes it."""

    copies: tuple[bytes, ...]
    due: float
    overtaken: bool = False


class FaultInjector:
    """The faults of all links between some addresses. May be changed at any time; frames under way keep their fate."""

    def __init__(self, faults: Faults = NONE, seed: int = 0) -> None:
        self.faults = faults
        """Of every link that has none of its own."""
        self.seed = seed
        self._between: dict[tuple[Address, Address], Faults] = {}
        self._calls: Counter[tuple[Address, Address, str]] = Counter()
        self._free: dict[tuple[Address, Address], float] = {}

    def between(self, source: Address, target: Address, faults: Faults | None) -> None:
        """Faults for this direction alone; None: those of all."""
        if faults is None:
            self._between.pop((source, target), None)
        else:
            self._between[source, target] = faults

    def on(self, source: Address, target: Address) -> Faults:
        """The faults of this direction."""
        return self._between.get((source, target), self.faults)

    def way(self, source: Address, target: Address, kind: str) -> "Way":
        """For one direction of one call of this kind. The n-th call of a kind between two addresses always meets the
        same faults, whatever else goes on."""
        self._calls[source, target, kind] += 1
        return Way(self, source, target, f"{source}>{target}:{kind}:{self._calls[source, target, kind]}")

    def _through(self, source: Address, target: Address, nbytes: int, bandwidth: float, now: float) -> float:
        """When the last byte has left, after all that was to be sent before."""
        free = max(now, self._free.get((source, target), now)) + nbytes / bandwidth
        self._free[source, target] = free
        return free


class Way:
    """One direction of one call: frames in order, each with its fate."""

    def __init__(self, injector: FaultInjector, source: Address, target: Address, name: str) -> None:
        self._injector = injector
        self._source = source
        self._target = target
        self._name = name
        self._rng: Random | None = None
        self._latest = 0.0

    def send(self, frame: bytes, now: float) -> Fate:
        """What becomes of a frame that is sent at `now`."""
        faults = self._injector.on(self._source, self._target)
        due = now
        if faults.bandwidth is not None:
            due = self._injector._through(self._source, self._target, len(frame), faults.bandwidth, now)
        due += faults.delay
        if not faults.drawn:
            return Fate((frame,), self._in_order(due))
        rng = self._generator()
        # As many draws for each frame, whatever the shares: a fault more does not change where the others fall.
        jitter, lost, doubled, overtaken, changed, where = (rng.random() for _ in range(6))
        if changed < faults.corruption and frame:
            frame = _flipped(frame, int(where * 8 * len(frame)))
        copies = 0 if lost < faults.loss else 2 if doubled < faults.duplication else 1
        return Fate(
            (frame,) * copies,
            self._in_order(due + jitter * faults.jitter),
            copies > 0 and overtaken < faults.reordering,
        )

    def end(self, now: float) -> float:
        """When the end of the call arrives: after all frames, and never lost."""
        return self._in_order(now + self._injector.on(self._source, self._target).delay)

    def _in_order(self, due: float) -> float:
        self._latest = max(self._latest, due)
        return self._latest

    def _generator(self) -> Random:
        if self._rng is None:
            digest = hashlib.sha256(f"{self._injector.seed}:{self._name}".encode()).digest()
            self._rng = Random(int.from_bytes(digest[:8], "big"))
        return self._rng


def _flipped(frame: bytes, bit: int) -> bytes:
    changed = bytearray(frame)
    changed[bit >> 3] ^= 1 << (bit & 7)
    return bytes(changed)
