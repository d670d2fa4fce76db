"""Settings as frozen values. They are arguments of constructors; the library reads no settings file by itself."""

from dataclasses import dataclass

from peerlearn.errors import ConfigError

MIB = 1 << 20
"""One mebibyte, in bytes."""

NO_TLS_1_2 = ("GRPC_SSL_CIPHER_SUITES", "AES128-GCM-SHA256")
"""An environment variable of gRPC, with a value that leaves no usable TLS 1.2. gRPC reads it when it is imported. The
only TLS 1.2 suite named here needs an RSA certificate, and ours are elliptic-curve ones; TLS 1.3 suites are not
affected. Only our own programs set it: a library must not change its host's environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Heartbeats, deadlines and retries, in seconds on the monotonic clock.

    One deadline rule covers everything that moves bytes: give up after `base + stall + bytes / floor_rate`, and as soon
    as nothing arrives for `stall`. With a lower `stall` a dead provider costs less, and a slow one is lost sooner.
    """

    beat: float = 1.0
    """Between two heartbeats. Shorter: failures are noticed sooner, at the cost of more idle traffic."""
    suspect_after: float = 4.0
    """Without a heartbeat: the peer is suspect. It is not asked for knowledge, but still watched. Four beats, so that a
    single lost one changes nothing."""
    gone_after: float = 15.0
    """Without a heartbeat: the peer is gone. It is forgotten until it introduces itself again."""
    base: float = 5.0
    """Allowed for a connection and for the first frame of an answer."""
    stall: float = 5.0
    """The stall window: the most that a dead, slow or lying provider may cost, once."""
    floor_rate: float = 64 * 1024
    """Bytes per second. An exchange that stays below this rate is given up in the end."""
    retry_first: float = 0.25
    """Pause before an address is tried a second time; doubled after each failure, up to `retry_most`."""
    retry_most: float = 15.0
    """Longest pause between two tries."""

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
        """Seconds after which an exchange of `nbytes` is given up, even if bytes still trickle in."""
        return self.base + self.stall + nbytes / self.floor_rate


def lan() -> Timing:
    """Timing for a local network: the defaults."""
    return Timing()


def brisk() -> Timing:
    """Timing for tests on one machine: every failure is noticed within a second or two."""
    return Timing(beat=0.1, suspect_after=0.6, gone_after=2.0, base=2.0, stall=1.0, retry_first=0.05, retry_most=0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on the memory and work that other peers can cause. They are checked on declared sizes, before anything is
    allocated. Larger values admit larger models and groups, and more memory in the worst case. Raises ConfigError for a
    value that is not positive."""

    body_bytes: int = 256 * MIB
    """Tensors of one message, before compression."""
    held_bytes: int = 512 * MIB
    """Tensors that all questions together bring at one time. A question beyond this is refused as busy."""
    reuse_bytes: int = 256 * MIB
    """Memory of each of three caches: answers received, so that unchanged tensors need not travel again; what each
    consumer holds, for top-k; and answers made, to be given again to consumers that ask the same."""
    resumable_bytes: int = 256 * MIB
    """Broken-off answers, kept for a minute so that they can continue: at the provider, and at the consumer."""
    tensors: int = 4096
    """Tensors of one message."""
    dims: int = 8
    """Dimensions of one tensor."""
    name_chars: int = 256
    """Characters of one tensor's name."""
    header_bytes: int = 2 * MIB
    """Header of one message: names, dtypes and shapes of all its tensors."""
    block_bytes: int = 2 * MIB
    """One block of a body, before compression. A receiver holds a few blocks beside the tensors themselves."""
    look_ahead_bytes: int = 8 * MIB
    """Bytes that each connection takes from the network before they can be used. 64 KiB needs less memory, but is
    slower, and much slower over links with a long round trip."""
    select_bytes: int = 64 * 1024
    """`Query.select` as JSON."""
    select_depth: int = 16
    """Nesting depth of `Query.select`."""
    card_bytes: int = 64 * 1024
    """One encoded card."""
    revocation_bytes: int = 64 * 1024
    """A group's revocation list: about 1,800 entries."""
    classes: int = 10_000
    """Classes on a card."""
    layers: int = 1024
    """Layers on a card."""
    addresses: int = 16
    """Addresses on a card."""
    acquaintances: int = 256
    """Other peers named in one introduction."""
    peers: int = 256
    """Peers in the directory, unconfirmed hints included."""
    exchanges: int = 32
    """Exchanges served at once. One more is refused as busy."""
    exchanges_per_peer: int = 16
    """Exchanges served at once for one certificate; without TLS for one machine, and on this machine for one
    connection."""
    in_flight_bytes: int = 64 * MIB
    """Blocks of answers that are made and not yet taken by the network. Further blocks wait."""
    watches: int = 256
    """Peers that watch this one at once."""
    streams: int = 64
    """Calls at once on one connection. Further calls wait."""
    calls: int = 200
    """Calls per second from one caller, after a burst of five times as many. Further calls are refused as busy."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise ConfigError(f"limits: {name} must be positive, not {getattr(self, name)}")
