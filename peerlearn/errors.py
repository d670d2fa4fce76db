"""Every error that peerlearn raises on purpose, and the exit code each gives the command line.

* PeerlearnError            1
  + ConfigError             2  a setting that cannot work, an unknown name, an import path that leads nowhere
  + LearnerError            3  the model or the data set that the user gave cannot be used
  + NetworkError            4  this machine's network: port in use, no multicast, no such interface
  + IdentityError           5  another process holds this identity, or its key cannot be read
  + PeerStopped             1  the peer's block was left, or a step failed, while somebody waited for it
  + StateError              6  a state or run directory that cannot be read or written
  + GroupError             10  a group file that is missing, unreadable, open to others, expired, or not one
  + InvariantBroken        11  a simulation came upon something that must never happen
  + TransferError              an exchange with one peer failed; learning goes on
    - PeerUnreachable       7    no connection, or no progress within the stall window
    - PeerRefused           8    the other side said no, and why (`reason`)
  + WireError               9  bytes from a peer that are not a message we accept
    - Oversized                  more is declared than our limits take; nothing was allocated
    - Truncated                  the stream ended before the message did
    - Corrupt                    checksum, compression or structure is wrong
    - ForeignProtocol            another major version
    - Changed                    it builds on knowledge that is held here, and which is not what it says
  + KnowledgeError          9  a sound message that does not fit this learner
"""

from enum import StrEnum


class PeerlearnError(Exception):
    """Base of all errors that peerlearn raises on purpose."""

    exit_code = 1


class ConfigError(PeerlearnError):
    """A setting that cannot work; raised before anything is opened."""

    exit_code = 2


class LearnerError(PeerlearnError):
    """The model or the data set that the user gave cannot be used."""

    exit_code = 3


class NetworkError(PeerlearnError):
    """This machine's network does not do what is needed."""

    exit_code = 4


class IdentityError(PeerlearnError):
    """This identity cannot be used: held by another process, or its key is unreadable."""

    exit_code = 5


class PeerStopped(PeerlearnError):
    """The peer's block was left, or one of its steps failed, while a call to it was under way."""


class StateError(PeerlearnError):
    """A state or run directory cannot be read or written."""

    exit_code = 6


class GroupError(PeerlearnError):
    """A group file cannot be used: missing, unreadable, open to others, expired, damaged, or without what is needed."""

    exit_code = 10


class InvariantBroken(PeerlearnError):
    """A simulation came upon something that must never happen: a bug of the fabric, and the command that replays it."""

    exit_code = 11


class RefusalReason(StrEnum):
    """Why a peer says no. Travels on the wire; unknown reasons read as OTHER."""

    PROTOCOL = "protocol"
    """another major version"""
    GROUP = "group"
    """another group, or another group tag"""
    IDENTITY = "identity"
    """the card is not signed by its id, not of this connection, or the id is alive under another session"""
    REVOKED = "revoked"
    """the group has shut out this certificate or this peer"""
    UNKNOWN_PEER = "unknown-peer"
    """introduce yourself first"""
    EXPOSURE = "exposure"
    """not in my allow-list"""
    STRATEGY = "strategy"
    """a question that my strategy does not answer"""
    UNFIT = "unfit"
    """another architecture, layer, data set or shape"""
    VERSION = "version"
    """the version asked for is not there (yet, or any more)"""
    LIMITS = "limits"
    """more than I take"""
    BUSY = "busy"
    """too many exchanges at once; try again"""
    LEAVING = "leaving"
    OTHER = "other"


class TransferError(PeerlearnError):
    """An exchange with one peer failed. The model is as it was before."""

    def __init__(self, peer: str, detail: str) -> None:
        super().__init__(f"{peer}: {detail}")
        self.peer = peer
        self.detail = detail


class PeerUnreachable(TransferError):
    """No connection to the peer, or no progress within the stall window."""

    exit_code = 7


class PeerRefused(TransferError):
    """The peer answered, and the answer was no."""

    exit_code = 8

    def __init__(self, peer: str, reason: RefusalReason, detail: str) -> None:
        super().__init__(peer, f"refused ({reason}): {detail}")
        self.reason = reason
        self.said = detail


class WireError(PeerlearnError):
    """Bytes from a peer that are not a message this peer accepts."""

    exit_code = 9


class Oversized(WireError):
    """More is declared than our limits take. Raised before anything is allocated."""


class Truncated(WireError):
    """The stream ended before the message did."""


class Corrupt(WireError):
    """Checksum, compression or structure is wrong."""


class ForeignProtocol(WireError):
    """The peer speaks another major version of the protocol."""


class Changed(WireError):
    """An answer builds on knowledge that is held here, and which is not, or not any more, what the provider says."""


class KnowledgeError(PeerlearnError):
    """A sound message that does not fit this learner: another architecture, shape, data set; not finite."""

    exit_code = 9
