"""How fast, how cheaply and how steadily knowledge moves, beside the limits of the same machine in the same minutes."""
