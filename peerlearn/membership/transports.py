"""Connections to other peers: with a group by mutual TLS, without one in the clear."""

from peerlearn.config import Limits, Timing
from peerlearn.membership.trust import Trust
from peerlearn.security.group import Group
from peerlearn.security.passport import Passport
from peerlearn.transport.grpc.transport import GrpcTransport
from peerlearn.types import Address


def connections(
    group: Group | None, listen: Address, *, timing: Timing, limits: Limits
) -> tuple[GrpcTransport, Trust | None]:
    """A gRPC transport that listens on this address, and the trust of the group (None without one). Raises GroupError
    if the group cannot be used, ConfigError if this version of grpc is too old for a group."""
    if group is None:
        return GrpcTransport(listen, timing=timing, limits=limits), None
    passport = Passport(group, limits=limits)
    transport = GrpcTransport(listen, timing=timing, limits=limits, credentials=passport, guard=passport)
    return transport, Trust(passport, recheck=transport.recheck)
