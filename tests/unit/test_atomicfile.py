"""Files are whole or as they were, whenever the process is killed or the power goes, and lead nobody astray."""

import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from peerlearn import atomicfile

OLD, NEW = b"old" * 1000, b"new" * 1000


class Killed(BaseException):
    """The process ends here: nothing after it is done, not even tidying up."""


class Disk:
    """Passes on what a program does to its files, and knows what a power cut would leave of it.

    Content is safe once its file was synced; a new, changed or removed name once its directory was.
    """

    def __init__(self, folder: Path, most: int | None = None) -> None:
        self.steps: list[str] = []
        self._most = most
        self._folder = folder
        self._safe = self._entries()
        self._content = {name: path.read_bytes() for name, path in self._paths()}
        self._inodes = {inode: self._content[name] for name, inode in self._safe.items()}

    def doing(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if self._most is not None and len(self.steps) >= self._most:
                raise Killed
            self.steps.append(name)
            done = real(*args, **more)
            if name == "fsync":
                self._synced(args[0])
            return done

        return call

    def _synced(self, handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            self._safe = self._entries()
        else:
            path = Path(os.readlink(f"/proc/self/fd/{handle}"))
            self._inodes[os.fstat(handle).st_ino] = path.read_bytes()

    def after_power_cut(self, name: str) -> bytes | None:
        """What is there by this name; half a file is told by what it holds."""
        inode = self._safe.get(name)
        return None if inode is None else self._inodes.get(inode, b"")

    def after_names_survived(self, name: str) -> bytes | None:
        """The same when the directory has reached the disk by itself meanwhile, as it may at any time."""
        inode = self._entries().get(name)
        return None if inode is None else self._inodes.get(inode, b"")

    def _paths(self) -> Iterator[tuple[str, Path]]:
        return ((path.name, path) for path in self._folder.iterdir())

    def _entries(self) -> dict[str, int]:
        return {name: path.stat().st_ino for name, path in self._paths()}


class _Os:
    """The module os with some calls of our own."""

    def __init__(self, **own: object) -> None:
        self.__dict__ |= vars(os) | own


@contextlib.contextmanager
def watched(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for name in ("replace", "unlink"):
            patch.setattr(Path, name, disk.doing(name, getattr(Path, name)))
        own = {name: disk.doing(name, getattr(os, name)) for name in ("fsync", "link", "open")}
        patch.setattr(atomicfile, "os", _Os(**own))
        yield


def write(path: Path) -> None:
    atomicfile.write(path, NEW)


def replace_and_keep(path: Path) -> None:
    with atomicfile.replacing(path, former=path.with_name("former")) as file:
        file.write(NEW)


def create(path: Path) -> None:
    path.unlink()
    atomicfile.create(path, NEW)


@pytest.mark.parametrize("n", range(12))
@pytest.mark.parametrize("act", [write, replace_and_keep])
def test_killed_between_any_two_steps_the_old_or_the_new_is_there_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], None], n: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    disk = Disk(tmp_path, most=n)
    with watched(disk, monkeypatch), contextlib.suppress(Killed):
        act(path)
    assert path.read_bytes() in (OLD, NEW), "killed"
    assert disk.after_power_cut("file") in (OLD, NEW), "the power went"
    assert disk.after_names_survived("file") in (OLD, NEW), "the power went a moment later"
    act(path)
    assert path.read_bytes() == NEW, "and the next attempt succeeds"


@pytest.mark.parametrize("n", range(6))
def test_a_new_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    disk = Disk(tmp_path, most=n)
    with watched(disk, monkeypatch), contextlib.suppress(Killed):
        atomicfile.create(tmp_path / "file", NEW)
    for found in (disk.after_power_cut("file"), disk.after_names_survived("file")):
        assert found in (None, NEW)


@pytest.mark.parametrize("act", [write, replace_and_keep, lambda path: atomicfile.create(path.with_name("fresh"), NEW)])
def test_what_was_written_survives_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], None]
) -> None:
    (tmp_path / "file").write_bytes(OLD)
    disk = Disk(tmp_path)
    with watched(disk, monkeypatch):
        act(tmp_path / "file")
    kept = {name: disk.after_power_cut(name) for name in ("file", "former", "fresh")}
    assert NEW in (kept["file"], kept["fresh"])
    if act is replace_and_keep:
        assert kept["former"] == OLD
    assert sorted(disk._safe) == sorted(name for name, found in kept.items() if found is not None), "and no draft"


def test_a_draft_cannot_be_led_elsewhere_by_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user who guesses the draft's name puts a link to a file of ours there: it is not written through."""
    victim = tmp_path / "victim"
    victim.write_bytes(OLD)
    monkeypatch.setattr(secrets, "token_hex", lambda n: "guessed")
    (tmp_path / ".file.guessed").symlink_to(victim)
    with pytest.raises(FileExistsError):
        atomicfile.write(tmp_path / "file", NEW)
    assert victim.read_bytes() == OLD
    assert not (tmp_path / "file").exists()


def test_a_link_in_the_place_of_the_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(OLD)
    (tmp_path / "file").symlink_to(victim)
    atomicfile.write(tmp_path / "file", NEW)
    assert (victim.read_bytes(), (tmp_path / "file").read_bytes()) == (OLD, NEW)
    assert not (tmp_path / "file").is_symlink()


@pytest.mark.parametrize(("mode", "umask", "expected"), [
    (atomicfile.PRIVATE, 0o000, 0o600), (atomicfile.SHARED, 0o022, 0o644), (atomicfile.SHARED, 0o077, 0o600),
])  # fmt: skip
def test_modes(tmp_path: Path, mode: int, umask: int, expected: int) -> None:
    before = os.umask(umask)
    try:
        atomicfile.write(tmp_path / "written", NEW, mode=mode)
        atomicfile.create(tmp_path / "created", NEW, mode=mode)
    finally:
        os.umask(before)
    for name in ("written", "created"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == expected


def test_by_default_a_file_is_for_its_owner_alone_even_where_others_could_read_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    path.chmod(0o644)
    atomicfile.write(path, NEW)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_failure_leaves_what_was_there_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    with contextlib.suppress(ValueError), atomicfile.replacing(path, former=tmp_path / "former") as file:
        file.write(NEW)
        raise ValueError
    with pytest.raises(FileExistsError):
        atomicfile.create(path, NEW)
    with pytest.raises(OSError, match="No such file"):
        atomicfile.write(tmp_path / "missing" / "file", NEW)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"file": OLD}


def test_a_full_disk_leaves_both_the_file_and_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    path, former = tmp_path / "file", tmp_path / "former"
    path.write_bytes(OLD)
    former.write_bytes(b"older")
    monkeypatch.setattr(atomicfile, "os", _Os(fsync=full))
    with pytest.raises(OSError, match="No space left"), atomicfile.replacing(path, former=former) as file:
        file.write(NEW)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"file": OLD, "former": b"older"}


def test_drafts_of_killed_processes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("file", ".file.0123", ".file.89ab", ".files.01", "other", ".other.01", ".f[a]le.01"):
        (tmp_path / name).write_bytes(OLD)
    atomicfile.remove_drafts(tmp_path / "file")
    left = {".files.01", "other", ".other.01", "file"}
    assert {each.name for each in tmp_path.iterdir()} == left | {".f[a]le.01"}
    atomicfile.remove_drafts(tmp_path / "f[a]le")
    assert {each.name for each in tmp_path.iterdir()} == left
