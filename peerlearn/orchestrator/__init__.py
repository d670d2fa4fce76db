"""The bridge: what a peer does next, with whom, and the one place where both towers meet."""
