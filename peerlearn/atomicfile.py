"""Files that are written whole or not at all, and survive a power cut once written.

Written to a draft beside the target, flushed, renamed over it, and the directory flushed too: without that last step a
power cut may undo the rename (rename(2), fsync(2)). Drafts have random names and are opened with O_EXCL and O_NOFOLLOW,
so that nobody who can write to the directory can lead them elsewhere.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PRIVATE = 0o600
"""For their owner alone: keys, and what was learned from private data."""


@contextmanager
def replacing(path: Path, *, mode: int = PRIVATE) -> Iterator[BinaryIO]:
    """A file to write to; when the block ends without an error it takes the place of `path`, at once and for good.

    When the block raises, `path` is as it was and the draft is gone. Raises OSError.
    """
    with _draft(path, mode) as (file, draft):
        yield file
        _flush(file)
        draft.rename(path)
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


def sync_directory(directory: Path) -> None:
    """Make renames and removals in this directory survive a power cut. Raises OSError."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _draft(path: Path, mode: int) -> Iterator[tuple[BinaryIO, Path]]:
    """Removed when the block raises."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with open(handle, "wb") as file:
            yield file, draft
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
