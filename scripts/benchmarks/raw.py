"""The limits: blocking sockets, plain and TLS, from a buffer that is there to a buffer that is there; and memcpy."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from peerlearn.config import MIB
from peerlearn.security.passport import Passport

HOST = "127.0.0.1"
_NAME_BYTES = 64
_STEP = MIB
"""Of one send or receive: from 256 KiB on it hardly matters (TRANSPORT, section A)."""

Find = Callable[[str], memoryview]
"""The bytes of a payload."""


@contextmanager
def serving(find: Find, tls: ssl.SSLContext | None = None, host: str = HOST) -> Iterator[int]:
    """Inside the block, whoever connects and names a payload gets its bytes, as often as it asks; yields the port."""
    listener = socket.create_server((host, 0))
    listening = threading.Thread(target=_listen, args=(listener, find, tls), name="bench:raw", daemon=True)
    listening.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        listening.join()


def _listen(listener: socket.socket, find: Find, tls: ssl.SSLContext | None) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(client, find, tls), name="bench:raw:client", daemon=True).start()


def _serve(client: socket.socket, find: Find, tls: ssl.SSLContext | None) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with suppress(OSError), client:  # it left, or is none of the group
        line = tls.wrap_socket(client, server_side=True) if tls is not None else client
        asked = memoryview(bytearray(_NAME_BYTES))
        while _fill(line, asked):
            body = find(bytes(asked).rstrip(b"\0").decode())
            for at in range(0, len(body), _STEP):
                line.sendall(body[at : at + _STEP])
        line.close()


class RawLine:
    """One connection. Blocks its thread while bytes come."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None, name: str = "", host: str = HOST) -> None:
        plain = socket.create_connection((host, port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._line = tls.wrap_socket(plain, server_hostname=name) if tls is not None else plain

    def take(self, payload: str, into: memoryview) -> float:
        """Seconds from asking to the last byte."""
        start = time.perf_counter()
        self._line.sendall(payload.encode().ljust(_NAME_BYTES, b"\0"))
        if not _fill(self._line, into):
            raise ConnectionError("the raw line ended early")
        return time.perf_counter() - start

    def close(self) -> None:
        self._line.close()


def _fill(line: socket.socket, into: memoryview) -> bool:
    at = 0
    while at < len(into):
        got = line.recv_into(into[at : at + _STEP])
        if not got:
            return False
        at += got
    return True


def touched(nbytes: int) -> memoryview:
    """A buffer whose pages are there."""
    buffer = np.empty(nbytes, np.uint8)
    buffer.fill(0)
    return buffer.data


def copy_seconds(nbytes: int) -> float:
    """One memcpy from touched memory to touched memory."""
    source, target = np.frombuffer(touched(nbytes), np.uint8), np.frombuffer(touched(nbytes), np.uint8)
    start = time.perf_counter()
    np.copyto(target, source)
    return time.perf_counter() - start


def context(passport: Passport, *, server: bool) -> ssl.SSLContext:
    """Mutual TLS 1.3 with the very certificates that a group's peers show."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(cadata=passport.authority.decode())
    with TemporaryDirectory() as folder:
        chain, key = Path(folder, "chain.pem"), Path(folder, "key.pem")
        chain.write_bytes(passport.certificate)
        key.touch(mode=0o600)
        key.write_bytes(passport.key)
        made.load_cert_chain(chain, key)
    return made
