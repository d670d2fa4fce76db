"""The command line: the door for people and scripts. Nothing else in the package imports it."""
