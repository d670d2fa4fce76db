"""The recommended method: the route that fits each provider, proved before it is believed."""

from peerlearn.strategies.auto.strategy import Auto as Auto
