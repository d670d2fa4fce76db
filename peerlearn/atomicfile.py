"""Files that are written whole or not at all, and survive a power cut once written.

Written to a draft beside the target, flushed, renamed over it, and the directory flushed too: without that last step a
power cut may undo the rename (rename(2), fsync(2)). Drafts have random names and are opened with O_EXCL and O_NOFOLLOW,
so that no other user who can write to the directory can lead them elsewhere.
"""

import contextlib
import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PRIVATE = 0o600
"""For their owner alone: keys, and what was learned from private data."""
SHARED = 0o666
"""For all whom the umask lets: results and reports."""


@contextmanager
def replacing(path: Path, *, mode: int = PRIVATE, former: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write to; when the block ends without an error it takes the place of `path`, at once and for good.

    former: what was at `path` is kept by this name, in the same directory. At every moment one of the two is there.
    When the block raises, both are as they were and the draft is gone. Raises OSError.
    """
    with _draft(path, mode) as (file, draft):
        yield file
        _flush(file)
        if former is not None and path.exists():
            _keep(path, former)
        draft.replace(path)
    sync_directory(path.parent)


def write(path: Path, data: bytes, *, mode: int = PRIVATE) -> None:
    """Put this content in the place of `path`. Raises OSError, with `path` as it was."""
    with replacing(path, mode=mode) as file:
        file.write(data)


def create(path: Path, data: bytes, *, mode: int = PRIVATE) -> None:
    """Write a file that must not be there yet. Raises FileExistsError, or another OSError, with nothing changed."""
    with _draft(path, mode) as (file, draft):
        file.write(data)
        _flush(file)
        os.link(draft, path)  # unlike a rename, it fails when the name is taken
        draft.unlink()
    sync_directory(path.parent)


def remove_drafts(path: Path) -> None:
    """Remove the drafts that processes which were killed have left of this file.

    Only for a process that is sure to be the only one that writes it. Raises OSError.
    """
    for draft in path.parent.glob(f".{glob.escape(path.name)}.*"):
        draft.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make renames and removals in this directory survive a power cut. Raises OSError."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _keep(path: Path, former: Path) -> None:
    """A second name for what is about to be replaced, without a moment in which it has none. A file system without
    links gives it one name, the other, until the new file is in its place."""
    draft = _draft_of(former)
    try:
        os.link(path, draft)
        draft.replace(former)
    except OSError:
        path.replace(former)


@contextmanager
def _draft(path: Path, mode: int) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file beside `path`, and its name. It is removed when the block raises."""
    draft = _draft_of(path)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with open(handle, "wb") as file:
            yield file, draft
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            draft.unlink(missing_ok=True)
        raise


def _draft_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
