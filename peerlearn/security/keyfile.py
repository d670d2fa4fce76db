"""Files that hold a private key: for their owner alone, written whole or not at all."""

import os
import stat
from pathlib import Path

from peerlearn import atomicfile
from peerlearn.errors import GroupError

MOST_BYTES = 1 << 20


def read_private(path: Path) -> bytes:
    """The content of a file that holds a key.

    Raises GroupError, with the fix, for a file that is missing, unreadable or huge, or that other users can read.
    """
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
    """Write a file for this user alone (mode 0600), whole or not at all.

    replace: whether a file of this name may be replaced. Raises GroupError when one is there that may not, or when the
    file cannot be written.
    """
    try:
        (atomicfile.write if replace else atomicfile.create)(path, data)
    except FileExistsError as exc:
        raise GroupError(f"{path} is there already, and nothing is overwritten: choose another name by --out") from exc
    except OSError as exc:
        raise GroupError(f"cannot write {path}: {exc.strerror}; choose another place by --out") from exc
