"""Training on the learner's thread: local spans, the gated transfer, and scoring."""
