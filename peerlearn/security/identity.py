"""The signing key of a peer (Ed25519), kept in its state directory and held by one process at a time."""

import fcntl
import hashlib
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from peerlearn import atomicfile
from peerlearn.errors import IdentityError
from peerlearn.types import PeerId

KEY_FILE = "identity.key"
LOCK_FILE = "identity.lock"
_ID_DIGITS = 32
_KEY_FILE_MOST = 4096


def fingerprint(public_key: bytes) -> PeerId:
    """The id that goes with a public key: the first 32 hex digits of its SHA-256."""
    return PeerId(hashlib.sha256(public_key).hexdigest()[:_ID_DIGITS])


class Identity:
    """A key pair and the id that is its fingerprint. Close it (or leave its `with` block) to let go of the lock."""

    def __init__(self, key: Ed25519PrivateKey, lock: IO[bytes] | None = None) -> None:
        self._key = key
        self._lock = lock
        self.public_key = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        """32 bytes."""
        self.id = fingerprint(self.public_key)

    @classmethod
    def ephemeral(cls) -> Self:
        """A new identity that ends with this process."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def of_seed(cls, seed: str) -> Self:
        """The identity that goes with this text: for experiments and simulation, where runs must be repeatable.

        A program that knows the text can pass for this peer.
        """
        return cls(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed.encode()).digest()))

    @classmethod
    def load_or_create(cls, directory: Path) -> Self:
        """The identity kept in `directory`, made on first use; one process at a time may hold it.

        Raises IdentityError, with the way out, when another process holds it, when the key can be read by other
        users, or when it cannot be read or is not a key. A bad key is never replaced: that would be another peer.
        """
        lock = _locked(directory)
        try:
            path = directory / KEY_FILE
            return cls(_read(path) if os.path.lexists(path) else _create(path), lock)
        except BaseException:
            lock.close()
            raise

    def sign(self, data: bytes) -> bytes:
        """The Ed25519 signature of `data` by this identity: 64 bytes."""
        return self._key.sign(data)

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Identity({self.id})"


def _locked(directory: Path) -> IO[bytes]:
    path = directory / LOCK_FILE
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = open(path, "a+b")  # noqa: SIM115  the lock lives as long as the identity
    except OSError as exc:
        raise IdentityError(
            f"cannot keep an identity in {directory}: {exc.strerror}; choose another state directory"
        ) from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.truncate(0)
        lock.write(str(os.getpid()).encode())
        lock.flush()
    except BlockingIOError as exc:
        holder = _holder(lock)
        lock.close()
        raise IdentityError(
            f"the identity in {directory} is in use by another process{holder}; "
            "stop it, or give this peer its own state directory"
        ) from exc
    except OSError as exc:
        lock.close()
        raise IdentityError(f"cannot lock {path}: {exc.strerror}; keep the state directory on a local disk") from exc
    return lock


def _holder(lock: IO[bytes]) -> str:
    lock.seek(0)
    pid = lock.read(16)
    return f" (pid {pid.decode()})" if pid.isdigit() else ""


def _read(path: Path) -> Ed25519PrivateKey:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise IdentityError(f"{path} is not a file: remove it for a new identity, or restore the key")
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(_KEY_FILE_MOST)
    except OSError as exc:
        raise IdentityError(f"cannot read the identity {path}: {exc.strerror}; make it readable by this user") from exc
    if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
        raise IdentityError(
            f"other users can read the identity {path}: run chmod 600 on it, or delete it for a new one"
        )
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as exc:
        raise IdentityError(f"{path} is not a key: restore it from a copy, or delete it for a new identity") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError(f"{path} is not an Ed25519 key: restore it from a copy, or delete it for a new identity")
    return key


def _create(path: Path) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.generate()
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        atomicfile.write(path, data)
    except OSError as exc:
        raise IdentityError(
            f"cannot write the identity {path}: {exc.strerror}; choose another state directory"
        ) from exc
    return key
