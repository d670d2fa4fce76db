"""Files that hold a private key: for their owner alone, written whole or not at all."""

import os
import secrets
import stat
from pathlib import Path

from peerlearn.errors import GroupError

MOST_BYTES = 1 << 20


def read_private(path: Path) -> bytes:
    """Raises GroupError, with the fix, for a file that is missing, unreadable, huge, or that others may read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise GroupError(f"{path} is not a file: name the group file itself")
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError as exc:
        raise GroupError(
            f"there is no group file {path}: make one by peerlearn group new, or copy that of your group here"
        ) from exc
    except OSError as exc:
        raise GroupError(f"cannot read the group file {path}: {exc.strerror}; make it readable by this user") from exc
    if not stat.S_ISREG(status.st_mode):
        raise GroupError(f"{path} is not a file: name the group file itself")
    if status.st_mode & 0o077:
        raise GroupError(
            f"other users can read the group file {path}, and so could join: run chmod 600 {path}; "
            "if somebody may have read it, run peerlearn group rotate too"
        )
    if len(data) > MOST_BYTES:
        raise GroupError(f"{path} is larger than any group file: name the group file itself")
    return data


def write_private(path: Path, data: bytes, *, replace: bool) -> None:
    """With mode 0600, as a whole. Raises GroupError when it cannot, or when it is there and may not be replaced."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            draft.rename(path)
        else:
            os.link(draft, path)  # unlike a rename, it fails when the name is taken
            draft.unlink()
        _sync_directory(path.parent)
    except FileExistsError as exc:
        draft.unlink(missing_ok=True)
        raise GroupError(f"{path} is there already, and nothing is overwritten: choose another name by --out") from exc
    except OSError as exc:
        draft.unlink(missing_ok=True)
        raise GroupError(f"cannot write {path}: {exc.strerror}; choose another place by --out") from exc


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
