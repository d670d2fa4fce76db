"""Checkpointing: the times of saving, the content of a checkpoint, and how a run is resumed."""
