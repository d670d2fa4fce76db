"""Mutual TLS 1.3 between peers: what each end shows, what a connection tells of the other, why there is none."""

import asyncio
import os
import ssl
from contextlib import suppress
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio

from peerlearn.config import NO_TLS_1_2
from peerlearn.errors import ConfigError
from peerlearn.transport.base import Caller, Credentials
from peerlearn.types import Address

_PROBE_WAIT = 1.0
"""Seconds for a TLS handshake that only improves a message: a machine on the LAN needs a few milliseconds."""

_END = b"-----END CERTIFICATE-----"
_TELLS_VERSION = (1, 85)
"""The first release of grpcio that says which version of TLS a connection speaks."""

Context = grpc.aio.ServicerContext[Any, Any]


def check_can_tell() -> None:
    """Raises ConfigError when this grpc could neither refuse TLS 1.2 nor notice it."""
    release = tuple(int(part) for part in grpc.__version__.split(".")[:2])
    if release < _TELLS_VERSION and not _cannot_be_older():
        raise ConfigError(
            f"grpcio {grpc.__version__} does not tell which TLS a connection speaks, and a group takes only 1.3: "
            f"pip install 'grpcio>=1.85', or start the program with {NO_TLS_1_2[0]}={NO_TLS_1_2[1]}"
        )


def is_tls13(context: Context) -> bool:
    """Whether the caller's connection is; where this grpc does not tell, `check_can_tell` has made sure."""
    told = context.auth_context().get("ssl_tls_version")
    return list(told) == [b"TLSv1.3"] if told is not None else _cannot_be_older()


def _cannot_be_older() -> bool:
    return os.environ.get(NO_TLS_1_2[0]) == NO_TLS_1_2[1]


def server_credentials(credentials: Credentials) -> grpc.ServerCredentials:
    """Asked anew for every connection, so that renewed certificates are shown without a restart."""
    given = _Given(credentials)
    renewed: Any = given  # may give None, for no change, which the stubs do not know
    return grpc.dynamic_ssl_server_credentials(given.configuration(), renewed, require_client_authentication=True)


def channel_credentials(credentials: Credentials, roots: bytes) -> grpc.ChannelCredentials:
    """For one channel whose other end must show a certificate of, or below, `roots` (PEM)."""
    _, certificate, key = _consistent(credentials)
    return grpc.ssl_channel_credentials(root_certificates=roots, private_key=key, certificate_chain=certificate)


def caller_of(context: Context) -> Caller:
    """The host that calls, and the certificates that it has shown."""
    auth = context.auth_context()
    return _caller(context.peer(), (*auth.get("x509_pem_cert", ()), *auth.get("x509_pem_cert_chain", ())))


@lru_cache(maxsize=4096)
def _caller(peer: str, shown: tuple[bytes, ...]) -> Caller:
    """`peer` is "ipv4:192.168.1.20:40404" or "ipv6:[::1]:40404" (quoted)."""
    address = unquote(peer).partition(":")[2]
    host = address.rpartition(":")[0].strip("[]") or address
    return Caller(host, _in_der(shown) if shown else (), address)


def der_to_pem(certificate: bytes) -> bytes:
    """The same certificate, in PEM."""
    return ssl.DER_cert_to_PEM_cert(certificate).encode()


def stranger(said: str) -> str | None:
    """Why a TLS connection did not come about, when the two are not of one group; None: something else."""
    if "WRONG_VERSION_NUMBER" in said:
        return "it speaks without TLS: it has no group, and this side has one"
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return "its certificate is not of this side's group, or has expired"
    if "ALERT" in said or "Socket closed" in said or "Connection reset" in said:
        return (
            "it does not take this side's certificate, as one of another group, expired, or not valid yet by its clock"
        )
    return None


async def speaks_tls(to: Address) -> bool:
    """Whether a program that hangs up on plain gRPC speaks TLS; asked only to say so to the user."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(_PROBE_WAIT):
            _, writer = await asyncio.open_connection(to.host, to.port, ssl=context)
    except (OSError, TimeoutError):  # SSLError is an OSError
        return False
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_PROBE_WAIT):
            await writer.wait_closed()
    return True


class _Given:
    """What the server was last given; called by gRPC's own thread for each new connection."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._last = _consistent(credentials)

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        authority, certificate, key = self._last
        return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=authority)

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        now = _consistent(self._credentials)
        if now == self._last:
            return None
        self._last = now
        return self.configuration()


def _consistent(credentials: Credentials) -> tuple[bytes, bytes, bytes]:
    """Authority, certificate and the key that goes with it, even while they are renewed by another thread."""
    while True:
        certificate, key, authority = credentials.certificate, credentials.key, credentials.authority
        if certificate == credentials.certificate:
            return authority, certificate, key


@lru_cache(maxsize=1024)
def _in_der(shown: tuple[bytes, ...]) -> tuple[bytes, ...]:
    blocks = [block + _END for pem in shown for block in pem.split(_END) if block.strip()]
    return tuple(dict.fromkeys(ssl.PEM_cert_to_DER_cert(block.decode("ascii").strip()) for block in blocks))
