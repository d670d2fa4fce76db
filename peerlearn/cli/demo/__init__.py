"""`peerlearn demo`: its processes, what each of them does, and how it looks."""
