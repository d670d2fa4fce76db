"""The one clock for all waiting: that of the running event loop. Monotonic, and virtual when the loop is."""

import asyncio


def now() -> float:
    """Seconds on the running loop's clock. Only differences have a meaning."""
    return asyncio.get_running_loop().time()
