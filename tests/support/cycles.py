"""What must leave no reference cycles, so that memory is freed at once."""

import gc
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from peerlearn.types import Address

TIMES = 20


MOST = 10
"""Objects in cycles, for each call; of one that fails there were 75."""


def nobody() -> Address:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return Address("127.0.0.1", server.getsockname()[1])


@contextmanager
def few_cycles() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
        found = gc.collect()
    finally:
        gc.enable()
    assert found < MOST * TIMES, f"{found / TIMES:.0f} objects in cycles for each call"
