"""Running an experiment: whole peers in one process, measured round by round, into a run directory."""
