"""The consuming side: choose providers, ask them, keep what they sent, and judge them by what it did."""
