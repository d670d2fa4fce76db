"""State on disk: exact round trips, and a crash at any point leaves the old or the new."""

import contextlib
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from peerlearn import atomicfile
from peerlearn.errors import StateError
from peerlearn.learning import checkpoint
from peerlearn.testing import Normed, bits, tiny_learner, weights
from peerlearn.types import steps

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
]  # fmt: skip

tensors = st.builds(
    lambda dtype, shape: (torch.arange(torch.Size(shape).numel()) % 5).reshape(shape).to(dtype),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 3), max_size=3),
)
leaves = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8) | tensors
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=6) | st.sampled_from(["$tensor", "$items"]), inner, max_size=3)
        | st.dictionaries(st.integers(-9, 9), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=60)
@given(tree=st.dictionaries(st.text(max_size=6), trees, max_size=4))
def test_a_tree_comes_back_as_it_was(tmp_path_factory, tree) -> None:
    folder = tmp_path_factory.mktemp("state")
    checkpoint.save(folder, tree)
    back = checkpoint.load(folder)
    assert bits(back) == bits(tree)
    assert repr(back) == repr(tree) or "tensor" in repr(tree)


def test_shared_and_strided_tensors_can_be_saved(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tree = {"a": base, "b": base, "c": base.T, "d": base[:, 1]}
    checkpoint.save(tmp_path, tree)
    assert bits(checkpoint.load(tmp_path)) == bits(tree)


def test_a_learner_goes_on_from_disk_to_the_same_bits(tmp_path: Path) -> None:
    straight = tiny_learner(model=Normed())
    straight.fit(steps(9))
    first = tiny_learner(model=Normed())
    first.fit(steps(4))
    checkpoint.save(tmp_path / "deep" / "er", first.state_dict())
    second = tiny_learner(model=Normed(seed=5))
    second.load_state_dict(checkpoint.load(tmp_path / "deep" / "er"))
    second.fit(steps(5))
    assert weights(second) == weights(straight)


class Crash(BaseException):
    pass


@pytest.mark.parametrize("at", ["fsync", "replace", "after"])
def test_a_crash_at_any_point_leaves_the_old_or_the_new(tmp_path: Path, monkeypatch, at: str) -> None:
    checkpoint.save(tmp_path, {"round": 1})

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        if at == "replace":
            patch.setattr(Path, "replace", crash)
        elif at == "fsync":
            patch.setattr(os, "fsync", crash)
        else:
            patch.setattr(atomicfile, "sync_directory", crash)
        with pytest.raises(Crash):
            checkpoint.save(tmp_path, {"round": 2})
    assert checkpoint.load(tmp_path) == {"round": 2 if at == "after" else 1}
    checkpoint.save(tmp_path, {"round": 3})
    assert checkpoint.load(tmp_path) == {"round": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


@pytest.mark.parametrize("lost", [0.0, 0.5])
@pytest.mark.parametrize("n", range(8))
def test_a_power_cut_at_any_point_leaves_the_old_or_the_new_and_the_one_before(
    tmp_path: Path, monkeypatch, n: int, lost: float
) -> None:
    """After the cut, of every file that was not synced only a share is there: nothing, or half."""
    checkpoint.save(tmp_path, {"round": 1}, former="previous")
    checkpoint.save(tmp_path, {"round": 2}, former="previous")
    synced = {path.stat().st_ino for path in tmp_path.iterdir()}
    calls = 0

    def until_the_cut(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > n:
                raise Crash
            return real(*args, **more)

        return call

    def fsync(handle: int) -> None:
        os.fsync(handle)
        synced.add(os.fstat(handle).st_ino)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", until_the_cut(Path.unlink))
        patch.setattr(Path, "replace", until_the_cut(Path.replace))
        patch.setattr(atomicfile, "os", _Os(link=until_the_cut(os.link), fsync=until_the_cut(fsync)))
        with contextlib.suppress(Crash):
            checkpoint.save(tmp_path, {"round": 3}, former="previous")
    for path in tmp_path.iterdir():
        if path.stat().st_ino not in synced:
            os.truncate(path, int(path.stat().st_size * lost))
    now, before = (checkpoint.load(tmp_path, name=name)["round"] for name in ("state", "previous"))
    assert (now, before) in ((2, 1), (2, 2), (3, 2))
    checkpoint.save(tmp_path, {"round": 4}, former="previous")
    assert checkpoint.load(tmp_path) == {"round": 4}
    assert checkpoint.load(tmp_path, name="previous") == {"round": now}


class _Os:
    """The module os with some calls of our own."""

    def __init__(self, **own: object) -> None:
        self.__dict__ |= vars(os) | own


@pytest.mark.parametrize("linked", [True, False])
def test_the_one_before_is_kept_also_where_the_file_system_has_no_links(
    tmp_path: Path, monkeypatch, linked: bool
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if not linked:
        monkeypatch.setattr(os, "link", no_links)
    for round_ in range(4):
        checkpoint.save(tmp_path, {"round": round_}, former="previous")
    assert checkpoint.load(tmp_path) == {"round": 3}
    assert checkpoint.load(tmp_path, name="previous") == {"round": 2}


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, {"w": torch.ones(5), "n": 1})
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(StateError, match="damaged or cut short"):
            checkpoint.load(tmp_path)


def test_a_flipped_bit_anywhere_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, {"w": torch.ones(5), "n": 1})
    whole = path.read_bytes()
    for position in range(8, len(whole), 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with contextlib.suppress(StateError):  # but for the padding of the header, which says nothing
            assert bits(checkpoint.load(tmp_path)) == bits({"w": torch.ones(5), "n": 1})


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"there is no state.safetensors"):
        checkpoint.load(tmp_path)
    (tmp_path / "state.safetensors").write_bytes(json.dumps({"hello": 1}).encode())
    with pytest.raises(StateError, match="damaged"):
        checkpoint.load(tmp_path)
    save_file({"w": torch.ones(2)}, tmp_path / "state.safetensors")
    with pytest.raises(StateError, match="not written by this version of peerlearn"):
        checkpoint.load(tmp_path)


def test_what_cannot_be_saved_is_said(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="a set cannot be saved"):
        checkpoint.save(tmp_path, {"a": {1, 2}})
    with pytest.raises(StateError, match="key of type float"):
        checkpoint.save(tmp_path, {"a": {1.5: 2}})
    (tmp_path / "file").write_text("x")
    with pytest.raises(StateError, match="choose another directory"):
        checkpoint.save(tmp_path / "file" / "below", {"a": 1})
