"""The consuming side: chooses providers, asks them, keeps their answers, and judges them by the effect of these."""
