"""The settings of a simulation: number of peers, duration, faults and seed. Plain values."""

from dataclasses import dataclass
from typing import Literal, get_args

from peerlearn.config import Limits, Timing
from peerlearn.errors import ConfigError

Kind = Literal["none", "calm", "storm"]
"""Faults of a run: none, only departures and flaps (calm), or all kinds (storm)."""

_BEATS = 96
"""Default number of heartbeats in a run, one every 15 minutes of a day. Heartbeats are most of a simulation's cost."""
_BEATS_A_ROUND = 6
"""Mean number of heartbeats between two rounds of a peer."""
_CALL = 30.0
"""Seconds for each step of a call, whatever the beat; above the longest delay of foul conditions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A simulation's settings. `beat`: seconds between two heartbeats; None: 96 of them in the whole run. Liveness
    settings are proportional to it; calls have 30 s for each step, whatever the beat.

    Raises ConfigError when the run is too short for all peers to find each other again after the last fault.
    """

    peers: int = 50
    hours: float = 24.0
    faults: Kind = "storm"
    seed: int = 0
    beat: float | None = None
    strategy: str = "distillation"

    def __post_init__(self) -> None:
        if not 2 <= self.peers <= 1000:
            raise ConfigError(f"a simulation has 2 to 1000 peers, not {self.peers}")
        if not 0 < self.hours <= 10_000:
            raise ConfigError(f"a simulation lasts up to 10,000 hours, not {self.hours:g}")
        if self.faults not in get_args(Kind):
            raise ConfigError(f"faults are one of {', '.join(get_args(Kind))}, not {self.faults!r}")
        if self.beat is not None and not self.beat > 0:
            raise ConfigError(f"a beat is a positive number of seconds, not {self.beat:g}")
        if self.seconds < 2 * self.settling:
            raise ConfigError(
                f"{self.hours:g} hours are too short for a beat of {self.timing.beat:g} s: after the faults it takes "
                f"up to {self.settling / 3600:.2g} hours until all know one another; take more hours, or a shorter beat"
            )

    @property
    def seconds(self) -> float:
        """Duration in virtual seconds."""
        return 3600 * self.hours

    @property
    def timing(self) -> Timing:
        """The peers' timing, derived from the beat."""
        beat = self.beat if self.beat is not None else self.seconds / _BEATS
        return Timing(
            beat=beat, suspect_after=3 * beat, gone_after=8 * beat, base=_CALL, stall=_CALL, floor_rate=1024,
            retry_first=min(5.0, beat), retry_most=3 * beat,
        )  # fmt: skip

    @property
    def limits(self) -> Limits:
        """Room for the present peers, the former ones, and as many hints. Tight, so that anything that grows without
        bound shows."""
        room = 2 * self.peers + 16
        return Limits(peers=room, watches=2 * self.peers + 16, acquaintances=room)

    @property
    def settling(self) -> float:
        """Seconds after the last fault within which all live peers must know each other. They cover giving up former
        sessions (`gone_after`), another try at peers that refused or were not reached (twice `retry_most`), and the
        first beats."""
        timing = self.timing
        return timing.gone_after + 2 * timing.retry_most + 2 * timing.suspect_after + 4 * timing.base

    @property
    def storm_ends(self) -> float:
        """Virtual seconds at which the last fault is over."""
        return self.seconds - self.settling

    @property
    def between_rounds(self) -> float:
        """Mean seconds that a peer pauses between two rounds."""
        return _BEATS_A_ROUND * self.timing.beat

    @property
    def command(self) -> str:
        """The command that repeats this run."""
        beat = "" if self.beat is None else f" --beat {self.beat:g}"
        strategy = "" if self.strategy == "distillation" else f" --strategy {self.strategy}"
        return (
            f"peerlearn simulate --peers {self.peers} --hours {self.hours:g} --faults {self.faults} "
            f"--seed {self.seed}{beat}{strategy}"
        )
