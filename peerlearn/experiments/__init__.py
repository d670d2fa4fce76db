"""Experiments: one TOML file in; whole peers in one process; run directories, tables, claims and pictures out."""
