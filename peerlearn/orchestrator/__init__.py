"""The bridge between learning and network: decides what a peer does next and with which providers, and does it."""
