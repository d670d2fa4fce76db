"""How somebody connects to others: with a group by mutual TLS, without one in the clear."""

from peerlearn.config import Limits, Timing
from peerlearn.membership.trust import Trust
from peerlearn.security.group import Group
from peerlearn.security.passport import Passport
from peerlearn.transport.grpc.transport import GrpcTransport
from peerlearn.types import Address


def connections(
    group: Group | None, listen: Address, *, timing: Timing, limits: Limits
) -> tuple[GrpcTransport, Trust | None]:
    """Over gRPC. Raises GroupError when the group cannot be used, ConfigError when this grpc is too old for one."""
    if group is None:
        return GrpcTransport(listen, timing=timing, limits=limits), None
    passport = Passport(group, limits=limits)
    transport = GrpcTransport(listen, timing=timing, limits=limits, credentials=passport, guard=passport)
    return transport, Trust(passport, recheck=transport.recheck)
