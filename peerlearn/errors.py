"""Every error that peerlearn raises on purpose, with the exit code that each gives the command line.

* PeerlearnError            1
  + ConfigError             2  a setting that cannot work, an unknown name, an import path that leads nowhere
    - ExtraMissing               an optional package is not installed
  + LearnerError            3  the model or the data set that the user gave cannot be used
  + NetworkError            4  this machine's network: port in use, no multicast, no such interface
  + IdentityError           5  another process holds this identity, or its key cannot be read
  + PeerStopped             1  the peer's block was left, or a step failed, during a call to the peer
  + StateError              6  a state or run directory that cannot be read or written
  + GroupError             10  a group file that is missing, unreadable, open to others, expired, or not one
  + InvariantBroken        11  a simulation found a breach of an invariant
  + TransferError              an exchange with one peer failed; learning goes on
    - PeerUnreachable       7    no connection, or no progress within the stall window
    - PeerRefused           8    the other peer refused, with a `reason`
  + WireError               9  bytes from a peer that are not a message we accept
    - Oversized                  more is declared than our limits take; nothing was allocated
    - Truncated                  the stream ended before the message did
    - Corrupt                    checksum, compression or structure is wrong
    - ForeignProtocol            another major version
    - Changed                    the answer builds on knowledge that differs from what this peer holds
  + KnowledgeError          9  a sound message that does not fit this learner
"""

from enum import StrEnum


class PeerlearnError(Exception):
    """Base class of all errors that peerlearn raises on purpose."""

    exit_code = 1


class ConfigError(PeerlearnError):
    """A setting that cannot work. Raised before anything is opened."""

    exit_code = 2


class ExtraMissing(ConfigError):
    """An optional package is not installed. The message says how to install it."""


class LearnerError(PeerlearnError):
    """The model or the data set that the user gave cannot be used."""

    exit_code = 3


class NetworkError(PeerlearnError):
    """This machine's network cannot be used as asked: port in use, no multicast, no such interface."""

    exit_code = 4


class IdentityError(PeerlearnError):
    """This identity cannot be used: another process holds it, or its key cannot be read."""

    exit_code = 5


class PeerStopped(PeerlearnError):
    """The peer's block was left, or one of its steps failed, during a call to the peer."""


class StateError(PeerlearnError):
    """A state or run directory cannot be read or written."""

    exit_code = 6


class GroupError(PeerlearnError):
    """A group file cannot be used: missing, unreadable, open to others, expired, damaged, or without what is needed."""

    exit_code = 10


class InvariantBroken(PeerlearnError):
    """A simulation found a breach of an invariant, which is a bug of the fabric. The message has the command that
    replays it."""

    exit_code = 11


class RefusalReason(StrEnum):
    """Why a peer refuses. Travels on the wire; a reason that this release does not know reads as OTHER."""

    PROTOCOL = "protocol"
    """The caller speaks another major version."""
    GROUP = "group"
    """The caller belongs to another group, or has another group tag."""
    IDENTITY = "identity"
    """The card is not signed by its id, does not name this connection's certificate, or its id is alive in another
    session."""
    REVOKED = "revoked"
    """The group has revoked this certificate or this peer."""
    UNKNOWN_PEER = "unknown-peer"
    """The caller must introduce itself first."""
    EXPOSURE = "exposure"
    """The provider's allow-list does not contain this."""
    STRATEGY = "strategy"
    """The provider's strategy does not answer such a question."""
    UNFIT = "unfit"
    """Another architecture, layer, data set or shape."""
    VERSION = "version"
    """The provider does not have the version asked for, not yet or not any more."""
    LIMITS = "limits"
    """The message exceeds the provider's limits."""
    BUSY = "busy"
    """Too many exchanges at once; try again."""
    LEAVING = "leaving"
    """The provider is shutting down."""
    OTHER = "other"
    """A reason that this release does not know."""


class TransferError(PeerlearnError):
    """An exchange with one peer failed. The model is unchanged."""

    def __init__(self, peer: str, detail: str) -> None:
        super().__init__(f"{peer}: {detail}")
        self.peer = peer
        self.detail = detail


class PeerUnreachable(TransferError):
    """No connection to the peer, or no progress within the stall window."""

    exit_code = 7


class PeerRefused(TransferError):
    """The peer answered with a refusal. `said`: its detail text."""

    exit_code = 8

    def __init__(self, peer: str, reason: RefusalReason, detail: str) -> None:
        super().__init__(peer, f"refused ({reason}): {detail}")
        self.reason = reason
        self.said = detail


class WireError(PeerlearnError):
    """Bytes from a peer that are not a message this peer accepts."""

    exit_code = 9


class Oversized(WireError):
    """The message declares more than our limits take. Raised before anything is allocated."""


class Truncated(WireError):
    """The stream ended before the message did."""


class Corrupt(WireError):
    """Checksum, compression or structure is wrong."""


class ForeignProtocol(WireError):
    """The peer speaks another major version of the protocol."""


class Changed(WireError):
    """The answer builds on knowledge that this peer should hold, but what this peer holds differs from what the
    provider says."""


class KnowledgeError(PeerlearnError):
    """A sound message that does not fit this learner: another architecture, shape or data set, or values that are not
    finite."""

    exit_code = 9
