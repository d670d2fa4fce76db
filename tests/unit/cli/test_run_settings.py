"""How a peer was started: written whole, read back as it was, and refused in one sentence when it cannot be meant."""

import json
import os
import stat
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from peerlearn.cli import owner_status, run_settings
from peerlearn.cli.run_settings import FILE, RunSettings, keep, load
from peerlearn.config import Limits
from peerlearn.errors import ConfigError, StateError


def everything(state: Path) -> RunSettings:
    """No field as it is by default."""
    return RunSettings(
        learner="app:learner", directory=state.parent, name="amber", strategy="pairwise",
        options={"layer": "penult", "rate": 0.5}, peers=("10.0.0.1:7", "[fe80::1]:7"), listen="0.0.0.0:7",
        group=state / "lab.group", group_tag="lab", expose={"*": ("histogram",), "birch": ("params.full",)},
        limits=Limits(calls=7, body_bytes=1 << 20), cast="int8", rounds=5, since=3, state=state, save_every=2.5,
        events=state / "events.jsonl",
    )  # fmt: skip


def test_what_is_kept_comes_back_as_it_was(tmp_path: Path) -> None:
    for settings in (everything(tmp_path), RunSettings(learner="app:learner", state=tmp_path, insecure=True)):
        keep(settings)
        assert load(tmp_path) == settings
    usual = RunSettings(learner="app:learner")
    same = {f.name for f in fields(usual) if getattr(usual, f.name) == getattr(everything(tmp_path), f.name)}
    assert same <= {"learner", "insecure", "directory"}, "a field that this test says nothing of"


def test_a_directory_that_was_moved_is_where_it_is_found(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    keep(everything(tmp_path / "old"))
    (tmp_path / "old").rename(tmp_path / "new")
    assert load(tmp_path / "new").state == tmp_path / "new"


def test_paths_are_kept_absolute_and_only_limits_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    keep(replace(everything(tmp_path), group=Path("lab.group"), events=Path("events.jsonl")))
    told = json.loads((tmp_path / FILE).read_text())
    assert (told["group"], told["events"]) == (str(tmp_path / "lab.group"), str(tmp_path / "events.jsonl"))
    assert told["limits"] == {"calls": 7, "body_bytes": 1 << 20}
    assert "state" not in told


def test_the_goal_counts_from_where_the_rounds_were_said() -> None:
    settings = RunSettings(learner="app:learner", rounds=5)
    assert settings.goal is None
    assert replace(settings, since=3).goal == 8
    assert replace(settings, rounds=None, since=3).goal is None


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"rounds": 0}, "--rounds must be at least 1, not 0"),
        ({"save_every": 0.0}, "--save-every must be more than 0, not 0"),
        ({"save_every": float("nan")}, "--save-every must be more than 0, not nan"),
        ({"cast": "int3"}, "there is no cast to 'int3'"),
        ({"peers": ("nowhere",)}, "'nowhere' is not an address"),
        ({"listen": "127.0.0.1:99999"}, "is not an address"),
        ({"group": Path("lab.group"), "insecure": True}, "exclude one another"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_opened(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        RunSettings(learner="app:learner", **changed)


@pytest.mark.parametrize("name", [f.name for f in fields(RunSettings) if f.name != "state"])
def test_nothing_that_was_lost_is_made_up(tmp_path: Path, name: str) -> None:
    """A default for a group that is gone would start a peer outside its group."""
    keep(everything(tmp_path))
    told = json.loads((tmp_path / FILE).read_text())
    del told[name]
    (tmp_path / FILE).write_text(json.dumps(told))
    with pytest.raises(StateError, match=rf"is damaged \('{name}' is missing\): run peerlearn up"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"limits": {"cals": 1}}, r"limits: unknown key 'cals'; known are .*; did you mean 'calls'"),
        ({"limits": {"calls": 0}}, "limits: calls must be positive"),
        ({"limits": []}, "limits: a table is expected"),
        ({"rounds": "many"}, "rounds: a whole number is expected, not 'many'"),
        ({"rounds": -1}, "--rounds must be at least 1"),
        ({"insecure": 1}, "insecure: true or false is expected, not 1"),
        ({"group": 7}, "group: a path is expected, not 7"),
        ({"peers": [7]}, r"peers\[0\]: a text is expected"),
        ({"expose": {"birch": "all"}}, r"expose\.birch: a list is expected"),
        ({"options": None}, "options: a table is expected"),
        ({"name": "x" * 10_000 + "\n", "rounds": [["x" * 10_000]]}, "rounds: a whole number is expected, not"),
    ],
)
def test_what_was_altered_is_one_sentence(tmp_path: Path, changed: dict[str, Any], why: str) -> None:
    keep(everything(tmp_path))
    told = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps(told | changed))
    with pytest.raises(StateError, match=why) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_depth_without_end_is_damage_too(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("[" * 100_000)
    with pytest.raises(StateError, match="is damaged"):
        load(tmp_path)


@pytest.mark.parametrize("file", [FILE, owner_status.FILE])
def test_what_is_kept_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    """The directory is synced once the file has its name: `resume` after a power cut is promised."""
    named: list[bool] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            named.append((tmp_path / file).exists())
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    run_settings.write(tmp_path / file, {"a": 1})
    assert named == [True]
    run_settings.write(tmp_path / file, {"a": 1})
    assert named == [True], "it is there already"
    assert stat.S_IMODE((tmp_path / file).stat().st_mode) == 0o600


def test_a_disk_that_takes_nothing_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    keep(everything(tmp_path))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateError, match=r"cannot write .*run\.json: No space left on device; free space or choose"):
        keep(replace(everything(tmp_path), name="birch"))
    monkeypatch.undo()
    assert load(tmp_path) == everything(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
