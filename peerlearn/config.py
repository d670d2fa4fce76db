"""Settings as frozen values: arguments of constructors, never a file that a library reads by itself."""

from dataclasses import dataclass

from peerlearn.errors import ConfigError

MIB = 1 << 20

NO_TLS_1_2 = ("GRPC_SSL_CIPHER_SUITES", "AES128-GCM-SHA256")
"""An environment variable of gRPC's, read when it is imported: a suite for RSA keys is the only one of TLS 1.2, and no
certificate of ours fits it; those of TLS 1.3 are not governed by it. For programs of our own; a library leaves its
host's setting alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Liveness and patience, in seconds on the monotonic clock.

    There is one deadline rule for everything that moves bytes: `base + bytes / floor_rate`, and dead
    as soon as nothing arrives for `stall`. Lower `stall`: a dead provider costs less, a slow one is lost sooner.
    """

    beat: float = 1.0
    """Between two beats."""
    suspect_after: float = 4.0
    """Without a beat: suspect. Not asked for knowledge any more; still watched."""
    gone_after: float = 15.0
    """Without a beat: gone. Forgotten until it introduces itself again."""
    base: float = 5.0
    """For a connection and the first frame of an answer."""
    stall: float = 5.0
    """The stall window: what a dead, slow or lying provider may cost, once."""
    floor_rate: float = 64 * 1024
    """Bytes per second below which an exchange is given up in the end."""
    retry_first: float = 0.25
    """First pause before a hint is tried again; doubles up to `retry_most`."""
    retry_most: float = 15.0

    def __post_init__(self) -> None:
        for name in ("beat", "suspect_after", "gone_after", "base", "stall", "floor_rate", "retry_first", "retry_most"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"timing: {name} must be positive, not {getattr(self, name)}")
        if not self.beat < self.suspect_after < self.gone_after:
            raise ConfigError(
                "timing: beat < suspect_after < gone_after must hold, "
                f"not {self.beat}, {self.suspect_after}, {self.gone_after}"
            )

    def budget(self, nbytes: int) -> float:
        """Seconds after which an exchange of `nbytes` is given up even if bytes still trickle in."""
        return self.base + self.stall + nbytes / self.floor_rate


def lan() -> Timing:
    return Timing()


def brisk() -> Timing:
    """For tests on one machine: everything that is noticed is noticed within a second or two."""
    return Timing(beat=0.1, suspect_after=0.6, gone_after=2.0, base=2.0, stall=1.0, retry_first=0.05, retry_most=0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what a peer can make us hold. Checked on declared sizes, before anything is allocated."""

    body_bytes: int = 256 * MIB
    """Of one message's tensors, before compression."""
    held_bytes: int = 512 * MIB
    """Of all that questions bring at once; one more is refused as busy."""
    reuse_bytes: int = 256 * MIB
    """Of answers, kept so that what has not changed need not come again; of what consumers hold, for top-k; and of
    answers to be given again to whoever asks alike."""
    resumable_bytes: int = 256 * MIB
    """Of answers that broke off, kept for a minute to go on: by the one who sent them, and by the one who asked."""
    tensors: int = 4096
    dims: int = 8
    name_chars: int = 256
    header_bytes: int = 2 * MIB
    block_bytes: int = 2 * MIB
    """Of one block of a body, as it was before compression."""
    look_ahead_bytes: int = 8 * MIB
    """Taken from the network, by each connection, before it can be used. 64 KiB holds less memory and is slower, much
    slower where answers take long to travel."""
    select_bytes: int = 64 * 1024
    select_depth: int = 16
    card_bytes: int = 64 * 1024
    revocation_bytes: int = 64 * 1024
    """Of a group's list: about 1,800 entries."""
    classes: int = 10_000
    layers: int = 1024
    addresses: int = 16
    acquaintances: int = 256
    """Others named in one introduction."""
    peers: int = 256
    """In the directory, hints included."""
    exchanges: int = 32
    """Served at once; one more is refused as busy."""
    exchanges_per_peer: int = 16
    """Of these with one certificate; without TLS with one machine, and on this machine over one connection."""
    in_flight_bytes: int = 64 * MIB
    """Of blocks of answers that were made and that the network has not taken yet; more wait."""
    watches: int = 256
    streams: int = 64
    """Calls under way on one connection; more wait."""
    calls: int = 200
    """Per second, from one caller, after a burst of five times as many; more are refused as busy."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise ConfigError(f"limits: {name} must be positive, not {getattr(self, name)}")
