"""The key in the state directory: made once, private, and held by one process at a time."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from peerlearn.errors import IdentityError
from peerlearn.security import Identity
from peerlearn.security.identity import KEY_FILE
from peerlearn.wire.cards import is_peer_id


def test_an_identity_is_kept(tmp_path: Path) -> None:
    with Identity.load_or_create(tmp_path / "state") as first:
        assert is_peer_id(first.id)
        key, signature = first.public_key, first.sign(b"words")
    with Identity.load_or_create(tmp_path / "state") as again:
        assert (again.public_key, again.sign(b"words")) == (key, signature)
    assert stat.S_IMODE((tmp_path / "state" / KEY_FILE).stat().st_mode) == 0o600


def test_a_new_key_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory is synced after the key has its name: else the name may be lost, and the peer is another one."""
    named: list[bool] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            named.append((tmp_path / KEY_FILE).exists())
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    Identity.load_or_create(tmp_path).close()
    assert named == [True]


def test_ephemeral_identities_differ() -> None:
    assert Identity.ephemeral().id != Identity.ephemeral().id


def test_the_key_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Identity.load_or_create(tmp_path).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_a_key_that_others_can_read_is_refused_with_the_fix(tmp_path: Path, mode: int) -> None:
    Identity.load_or_create(tmp_path).close()
    (tmp_path / KEY_FILE).chmod(mode)
    with pytest.raises(IdentityError, match="chmod 600"):
        Identity.load_or_create(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o600)
    Identity.load_or_create(tmp_path).close()


def test_a_bad_key_is_refused_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / KEY_FILE
    elliptic = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content in (b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", elliptic):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(IdentityError, match="delete it for a new identity"):
            Identity.load_or_create(tmp_path)
        assert path.read_bytes() == content


def test_a_key_that_is_a_directory_or_dangling_link_is_refused(tmp_path: Path) -> None:
    path = tmp_path / KEY_FILE
    path.mkdir()
    with pytest.raises(IdentityError, match="is not a file: remove it for a new identity, or restore the key"):
        Identity.load_or_create(tmp_path)
    path.rmdir()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(IdentityError, match="cannot read"):
        Identity.load_or_create(tmp_path)


def test_a_state_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IdentityError, match="choose another state directory"):
        Identity.load_or_create(tmp_path / "file" / "state")


def test_two_in_one_process_cannot_hold_it_either(tmp_path: Path) -> None:
    with Identity.load_or_create(tmp_path):
        with pytest.raises(IdentityError, match="in use by another process"):
            Identity.load_or_create(tmp_path)
    Identity.load_or_create(tmp_path).close()


def test_a_second_process_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from peerlearn.security import Identity\n"
        "with Identity.load_or_create(Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(IdentityError, match=rf"pid {holder.pid}"):
            Identity.load_or_create(tmp_path)
        holder.kill()
    # kill -9 leaves no stale lock.
    Identity.load_or_create(tmp_path).close()
