"""What any strategy, transport or discovery must pass; those of peerlearn pass the same.

    conformance.strategy(Mutual)                        one method
    conformance.transport(MemoryNetwork().transport)    transports that reach one another
    conformance.discovery(lobby.door)                   how peers of one LAN come to hear of one another

Each returns checks. A check is called without arguments, outside an event loop, and raises AssertionError with one
sentence where the promise is broken; `str(check)` is its name.
"""

from peerlearn.testing.conformance.check import Check
from peerlearn.testing.conformance.discoveries import discovery
from peerlearn.testing.conformance.strategies import strategy
from peerlearn.testing.conformance.transports import transport

__all__ = ["Check", "discovery", "strategy", "transport"]
