"""The garbage collector in our own programs: what was loaded is left alone, what comes later is not."""

import subprocess
import sys

_PROGRAM = """
import gc, weakref
import peerlearn

class Ring:
    pass

def thrown_away():
    ring = Ring()
    ring.me = ring
    return weakref.ref(ring)

before = gc.get_threshold()
peerlearn.tune_collector()
seen = len(gc.get_objects())
ring = thrown_away()
gc.collect()
assert ring() is None, "what comes later is collected"
assert seen < 1000 < gc.get_freeze_count(), (seen, gc.get_freeze_count())
assert gc.get_threshold()[0] > before[0] and gc.get_threshold()[1:] == before[1:]
"""


def test_what_a_program_has_loaded_is_never_looked_at_again() -> None:
    subprocess.run([sys.executable, "-c", _PROGRAM], check=True, timeout=60)
