"""Certificates of a group: a private authority on ECDSA P-256, what it signs, and whom it leads to. X.509, no more.

P-256 because gRPC's TLS takes no Ed25519 certificates. Nothing in a certificate tells an outsider more than the mDNS
record does: a client sees the server's, before it has shown its own.
"""

import datetime
import hashlib
from collections.abc import Callable, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

SERVER_NAME = "peer.peerlearn.internal"
"""In every certificate, and in the clear at the start of every connection: so the same for all groups."""

_SLACK = datetime.timedelta(hours=1)
"""That clocks may differ by."""
_UNREADABLE = (
    ValueError, TypeError, IndexError, OverflowError, UnsupportedAlgorithm,
    x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType,
)  # fmt: skip
"""What the library raises for certificates that are made up: some of it only when a field is looked at."""
_DEEPEST = 6
"""Authorities between a peer's certificate and one that is trusted: one per rotation whose overlap still runs."""


def utc(seconds: float) -> datetime.datetime:
    """Certificates count in whole seconds."""
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)


def fingerprint_of(certificate: bytes) -> bytes:
    """SHA-256 of a certificate in DER."""
    return hashlib.sha256(certificate).digest()


def new_key() -> EllipticCurvePrivateKey:
    return generate_private_key(SECP256R1())


def root(key: EllipticCurvePrivateKey, name: str, *, now: float, until: float) -> x509.Certificate:
    """The authority's certificate of itself."""
    return _authority(key.public_key(), name, key, name, now, until)


def bridge(
    subject: x509.Certificate, key: EllipticCurvePrivateKey, issuer: x509.Certificate, *, now: float, until: float
) -> x509.Certificate:
    """The same authority, vouched for by another one until then: who trusts `issuer` trusts what `subject` signs."""
    return _authority(_p256(subject), _name(subject), key, _name(issuer), now, until)


def mint(
    key: EllipticCurvePrivateKey,
    authority: x509.Certificate,
    public: EllipticCurvePublicKey,
    *,
    now: float,
    until: float,
) -> x509.Certificate:
    """A certificate for a peer, good for both ends of a connection; never longer than its authority's own."""
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    end = min(utc(until), authority.not_valid_after_utc)
    made = _builder(public, "peer", key, _name(authority), utc(now) - _SLACK, end)
    made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    made = made.add_extension(_usage(signs_certificates=False), critical=True)
    made = made.add_extension(usages, critical=False)
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
    return made.sign(key, SHA256())


def verified(
    chain: Sequence[x509.Certificate], trusted: Sequence[x509.Certificate], now: float
) -> datetime.datetime | None:
    """Until when a peer's certificate (the first; the others lead to an authority) holds; None: it does not."""
    if not trusted:
        return None
    policy = PolicyBuilder().store(Store(list(trusted))).time(utc(now)).max_chain_depth(_DEEPEST)
    try:
        path = policy.build_client_verifier().verify(chain[0], list(chain[1:])).chain
    except (VerificationError, *_UNREADABLE):
        return None
    return min(certificate.not_valid_after_utc for certificate in path)


def keys_trusted(
    trusted: Sequence[x509.Certificate], links: Sequence[x509.Certificate], now: float
) -> list[EllipticCurvePublicKey]:
    """Keys of the authorities that are trusted, and of those that these vouch for by a link."""
    here = [certificate for certificate in trusted if valid(certificate, now)]
    left = [link for link in links[:_DEEPEST] if valid(link, now) and _is_authority(link)]
    for _ in range(len(left)):
        led = [link for link in left if link not in here and any(_issued(link, by) for by in here)]
        here += led
    return [_p256(certificate) for certificate in here]


def valid(certificate: x509.Certificate, now: float) -> bool:
    return certificate.not_valid_before_utc <= utc(now) <= certificate.not_valid_after_utc


def read(data: bytes) -> x509.Certificate:
    """A certificate in DER. Raises ValueError unless it is of a P-256 key and all of it can be read: what is looked at
    later raises nothing."""
    return _sound(lambda: x509.load_der_x509_certificate(data))


def read_pem(text: bytes) -> x509.Certificate:
    """The same in PEM."""
    return _sound(lambda: x509.load_pem_x509_certificate(text))


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def key_pem(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_key(text: bytes) -> EllipticCurvePrivateKey:
    """Raises ValueError for what is not a P-256 private key in PEM."""
    try:
        key = load_pem_private_key(text, password=None)
    except TypeError as exc:
        raise ValueError("the key is encrypted") from exc
    except UnsupportedAlgorithm as exc:
        raise ValueError("the key is of no kind that is known here") from exc
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise ValueError("the key is not of ECDSA P-256")
    return key


def belongs(key: EllipticCurvePrivateKey, certificate: x509.Certificate) -> bool:
    """Whether the certificate is of this key."""
    form = Encoding.X962, PublicFormat.UncompressedPoint
    return key.public_key().public_bytes(*form) == _p256(certificate).public_bytes(*form)


def _sound(loaded: Callable[[], x509.Certificate]) -> x509.Certificate:
    try:
        certificate = loaded()
        (
            _p256(certificate),
            _name(certificate),
            certificate.issuer,
            certificate.extensions,
        )  # each is parsed when asked for
        valid(certificate, 0)
    except _UNREADABLE as exc:
        raise ValueError(f"a certificate that cannot be read: {str(exc)[:80]}") from exc
    return certificate


def _p256(certificate: x509.Certificate) -> EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise ValueError("the certificate is not of an ECDSA P-256 key")
    return key


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _issued(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (InvalidSignature, *_UNREADABLE):
        return False
    return True


def _authority(
    public: EllipticCurvePublicKey, name: str, key: EllipticCurvePrivateKey, issuer: str, now: float, until: float
) -> x509.Certificate:
    made = _builder(public, name, key, issuer, utc(now) - _SLACK, utc(until))
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return made.add_extension(_usage(signs_certificates=True), critical=True).sign(key, SHA256())


def _builder(
    public: EllipticCurvePublicKey,
    name: str,
    key: EllipticCurvePrivateKey,
    issuer: str,
    begin: datetime.datetime,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(_named(issuer))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _name(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
