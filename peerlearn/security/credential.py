"""A certificate that a peer can show, with its key; and the record of one that was made for another machine."""

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from peerlearn.security import authority

NAME_CHARS = 64
"""Of the name of a group, or of a certificate's holder."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was made for a member's file."""

    name: str
    fingerprint: bytes
    until: float
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True, eq=False)
class Credential:
    """A certificate with its key, and the links that lead from its authority to older ones."""

    key: EllipticCurvePrivateKey
    certificate: x509.Certificate
    links: tuple[x509.Certificate, ...] = ()

    @property
    def chain(self) -> tuple[bytes, ...]:
        """DER, the certificate itself first."""
        return tuple(map(authority.der, (self.certificate, *self.links)))

    @property
    def fingerprint(self) -> bytes:
        return authority.fingerprint_of(authority.der(self.certificate))

    @property
    def since(self) -> float:
        return self.certificate.not_valid_before_utc.timestamp()

    @property
    def until(self) -> float:
        return self.certificate.not_valid_after_utc.timestamp()
