"""Whole peers in one process, under a virtual clock, driven from one seed: a day of churn in seconds, to the bit."""
