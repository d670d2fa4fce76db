"""What runs on the learner's thread: spans, the gated transfer, scoring."""
