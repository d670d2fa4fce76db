"""The providing side: answers from snapshots, shared between consumers, and the reports that come back."""
