"""Whole peers in one process under a virtual clock, driven by one seed: a day of churn in seconds, repeatable to the
bit."""
