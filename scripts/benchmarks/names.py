"""Names of payloads that the conductor knows, which loads no torch."""

STATE_100MB, STATE_300KB, FEATURES = "state-100mb", "state-300kb", "features-17mb"
SPARSE_100MB, TINY = "state-100mb-sparse", "state-10kb"
BIG, BIG_QUICK = "floats-1000mb", "floats-256mb"
"""One tensor."""
