"""One clock for all waiting: the running event loop's. Monotonic, and virtual when the loop is."""

import asyncio


def now() -> float:
    """Seconds on the running loop's clock; only differences mean anything."""
    return asyncio.get_running_loop().time()
