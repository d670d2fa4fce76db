"""Python's garbage collector: tuned in programs of our own, left alone in those of others."""

import gc

_YOUNG = 10_000
"""Objects that are made before the youngest are looked at: a peer makes hundreds for every small exchange."""


def tune_collector() -> None:
    """Keep the collector from looking again and again at what a program has loaded and will never drop.

    A full collection beside torch takes 200 ms, in which nobody is answered and no beat goes out; afterwards, next to
    nothing. Call it once, when everything is loaded. What is there then is never collected; what is made later is.
    """
    gc.freeze()
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
