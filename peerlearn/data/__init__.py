"""Data sets by name or from a folder, and partitions of them among peers."""
