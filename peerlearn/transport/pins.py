"""Which certificates the holder of an address has proved to have; calls that matter go to their holder or nowhere."""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from hashlib import sha256

from peerlearn.errors import PeerRefused, PeerUnreachable
from peerlearn.transport.base import Guard
from peerlearn.transport.tls import der_to_pem
from peerlearn.types import Address

Chain = tuple[bytes, ...]

_KEPT = 2
"""At one address: what its holder shows, and what it showed before it renewed that."""


class Pins:
    """Certificate chains by address, in DER; the address longest unused is forgotten first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[Address, tuple[Chain, ...]] = OrderedDict()

    def __contains__(self, address: Address) -> bool:
        return address in self._held

    def put(self, address: Address, chain: Sequence[bytes], *, beside: bool = False) -> None:
        """The holder shows this one; `beside`: and may still show the one before."""
        before = self._held.get(address, ()) if beside else ()
        new = tuple(chain)
        self._held[address] = (new, *(old for old in before if old[0] != new[0]))[:_KEPT]
        self._held.move_to_end(address)
        if len(self._held) > self._most:
            self._held.popitem(last=False)

    def holds(self, address: Address, chain: Sequence[bytes]) -> bool:
        """Whether this certificate is one that the holder may show."""
        return any(held[0] == chain[0] for held in self._held.get(address, ()) if chain)

    def drop(self, address: Address) -> None:
        self._held.pop(address, None)

    def roots(self, address: Address, certificates: Collection[bytes] = ()) -> bytes:
        """PEM of what the holder may show. Raises PeerUnreachable when it has shown nothing, or (given SHA-256 of those
        that may be) something else."""
        self._check(address, certificates)
        return b"".join(der_to_pem(chain[0]) for chain in self._held[address])

    def _check(self, address: Address, certificates: Collection[bytes]) -> None:
        shown = [sha256(chain[0]).digest() for chain in self._held.get(address, ())]
        if not shown:
            raise PeerUnreachable(str(address), "nobody has proved there who it is; it has to be introduced first")
        if certificates and not set(shown) <= set(certificates):
            raise PeerUnreachable(str(address), "another peer is there now")

    def unwelcome(self, guard: Guard) -> list[tuple[Address, PeerRefused]]:
        """Addresses whose holder the guard no longer lets in; they are forgotten."""
        found = []
        for address, chains in tuple(self._held.items()):
            try:
                guard.check(chains[0], str(address))
            except PeerRefused as refused:
                found.append((address, refused))
                del self._held[address]
        return found
