"""The recommended method: the route that fits each provider, checked on held-out data."""

from peerlearn.strategies.auto.strategy import Auto as Auto
