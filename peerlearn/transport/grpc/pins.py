"""Which certificate the holder of an address has proved to have; calls that matter go to that holder or nowhere."""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from hashlib import sha256

from peerlearn.errors import PeerRefused, PeerUnreachable
from peerlearn.transport.base import Guard
from peerlearn.transport.grpc.tls import der_to_pem
from peerlearn.types import Address

Chain = tuple[bytes, ...]


class Pins:
    """Certificate chains by address, in DER; the address longest unpinned is forgotten first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[Address, Chain] = OrderedDict()

    def __contains__(self, address: Address) -> bool:
        return address in self._held

    def put(self, address: Address, chain: Sequence[bytes]) -> None:
        self._held[address] = tuple(chain)
        self._held.move_to_end(address)
        if len(self._held) > self._most:
            self._held.popitem(last=False)

    def holds(self, address: Address, chain: Sequence[bytes]) -> bool:
        """Whether this certificate is the one that was proved there."""
        return bool(chain) and self._held.get(address, ())[:1] == tuple(chain[:1])

    def roots(self, address: Address, certificates: Collection[bytes] = ()) -> bytes:
        """PEM of what the holder must show. Raises PeerUnreachable when it has proved nothing, or (given SHA-256 of
        those that may be) something else."""
        chain = self._held.get(address)
        if chain is None:
            raise PeerUnreachable(str(address), "nobody has proved there who it is; it has to be introduced first")
        if certificates and sha256(chain[0]).digest() not in certificates:
            raise PeerUnreachable(str(address), "another peer is there now")
        return der_to_pem(chain[0])

    def unwelcome(self, guard: Guard) -> list[tuple[Address, PeerRefused]]:
        """Addresses whose holder the guard no longer lets in; they are forgotten."""
        found = []
        for address, chain in tuple(self._held.items()):
            try:
                guard.check(chain, str(address))
            except PeerRefused as refused:
                found.append((address, refused))
                del self._held[address]
        return found
