"""Both transports, for tests of what they have in common."""

from collections.abc import Callable

import pytest

from peerlearn.transport.base import Transport
from peerlearn.transport.grpc.transport import GrpcTransport
from peerlearn.transport.memory.transport import MemoryNetwork

Make = Callable[..., Transport]


@pytest.fixture(params=["memory", "grpc"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes transports that reach one another: make(timing=, limits=)."""
    return GrpcTransport if request.param == "grpc" else MemoryNetwork().transport
