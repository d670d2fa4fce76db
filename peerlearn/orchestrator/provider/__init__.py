"""The providing side: answers questions from snapshots, shares answers between consumers, and takes complaints."""
