"""Which certificate the holder of an address has proved to have; calls that matter go to that holder or nowhere.

A pin ends when another holder proves to be at the address, when the guard no longer lets its certificate in (revoked or
expired), or when too many other addresses have been used since. A holder that is merely silent stays pinned, so that it
is recognised when it returns.
"""

from collections.abc import Collection, Sequence
from hashlib import sha256

from peerlearn.bounded import Bounded
from peerlearn.errors import PeerRefused, PeerUnreachable
from peerlearn.transport.base import Guard
from peerlearn.transport.grpc.tls import der_to_pem
from peerlearn.types import Address

Chain = tuple[bytes, ...]
"""Certificates in DER: a holder's own first, then those that lead to its authority."""


class Pins:
    """Certificate chains by address, at most `most`; the address used longest ago is forgotten first."""

    def __init__(self, most: int) -> None:
        self._held: Bounded[Address, Chain] = Bounded(most)

    def __contains__(self, address: Address) -> bool:
        return address in self._held

    def put(self, address: Address, chain: Sequence[bytes]) -> None:
        """The holder of this address has proved this chain, and the guard lets it in."""
        self._held[address] = tuple(chain)

    def forget(self, address: Address) -> None:
        """Another holder has proved to be at this address."""
        self._held.pop(address, None)

    def holds(self, address: Address, chain: Sequence[bytes]) -> bool:
        """Whether this certificate is the one that was proved there."""
        return bool(chain) and self._used(address)[:1] == tuple(chain[:1])

    def roots(self, address: Address, certificates: Collection[bytes] = ()) -> bytes:
        """PEM of the certificate that the holder must show.

        `certificates`: SHA-256 of those that it may be; none: any. Raises PeerUnreachable when no holder has proved
        anything there, or another certificate than these.
        """
        chain = self._used(address)
        if not chain:
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

    def _used(self, address: Address) -> Chain:
        if address not in self._held:
            return ()
        self._held.touch(address)
        return self._held[address]
