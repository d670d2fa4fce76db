"""When a run is saved, what a checkpoint holds, and how a run is resumed."""
