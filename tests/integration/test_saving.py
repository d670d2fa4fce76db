"""Saving that fails, and checkpoints that are damaged: the peer goes on, says so once, and saves as soon as it can."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peerlearn.cli.events_file import events_file
from peerlearn.cli.main import main
from peerlearn.config import brisk
from peerlearn.errors import ConfigError, StateError
from peerlearn.events import Published, Resumed, Saved, SaveFailed
from peerlearn.learning import checkpoint
from peerlearn.orchestrator.checkpointing.progress import Progress
from peerlearn.orchestrator.pace import Pace
from peerlearn.schedule import Exchange, Local, Publish, Schedule, Transfer
from peerlearn.security import Identity
from peerlearn.strategies.distillation import Distillation
from peerlearn.strategies.isolated import Isolated, IsolatedBalanced
from peerlearn.testing import PeerNetwork, blob_learner, same, until
from peerlearn.types import PeerId, epochs, steps

PROGRESS = Progress(
    round=3, version=4, cursor=1, into=7,
    triggered=(Transfer(steps(2)), Exchange(early=False, most=2, order="random"), Publish(), Local(epochs(1))),
    first=True, taught_by=(PeerId("a" * 32),),
)  # fmt: skip


def test_where_a_run_stood_survives_the_disk(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, PROGRESS.as_tree())
    assert Progress.of_tree(checkpoint.load(tmp_path)) == PROGRESS


def test_a_checkpoint_of_the_first_version_is_understood_and_nonsense_is_not() -> None:
    assert Progress.of_tree({"round": 1, "version": 2, "cursor": 0}) == Progress(round=1, version=2, cursor=0)
    for spoiled in ({"cursor": "x"}, {"triggered": [{"phase": "party"}]}, {"triggered": [{"phase": "local"}]}):
        with pytest.raises(StateError, match="cannot be read"):
            Progress.of_tree({**PROGRESS.as_tree(), **spoiled})


def test_only_a_plain_local_span_may_be_cut_in_two() -> None:
    assert Isolated().resumable
    assert Distillation().resumable
    assert not IsolatedBalanced().resumable


# ---------------------------------------------------------------- on the way


def isolated(village: PeerNetwork, state: Path, name: str = "amber", **more: Any) -> Any:
    return village.peer(
        name, blob_learner([0, 1, 2, 3], 1), strategy=more.pop("strategy", "isolated"), state=state, **more
    )


@pytest.mark.parametrize("strategy", [Isolated, IsolatedBalanced], ids=["divisible", "not divisible"])
async def test_leaving_in_the_middle_of_a_span_loses_no_bit(tmp_path: Path, strategy: type[Isolated]) -> None:
    village, long = PeerNetwork(), Schedule(cycle=(Local(epochs(30)),))
    whole = village.peer("whole", blob_learner([0, 1, 2, 3], 1), strategy=strategy(), schedule=long)
    async with whole:
        await whole.run(2)
    async with isolated(village, tmp_path, strategy=strategy(), schedule=long) as first:
        running = first._assembly.orchestrator  # its own run() would be cancelled with the block
        running._goal = 2
        running.wake()
        await until(lambda: running.round == 1 and first.learner.steps > 7 * 30 + 5)
    left_at = first.learner.steps
    async with isolated(village, tmp_path, strategy=strategy(), schedule=long) as second:
        assert second.rounds_done == 1
        assert second.learner.steps == left_at
        await second.run(1)
    assert same(dict(whole.learner.state), dict(second.learner.state))
    assert second.learner.steps == whole.learner.steps


async def test_what_a_peer_was_taught_by_is_forgotten_after_a_resume_as_it_would_have_been(tmp_path: Path) -> None:
    village = PeerNetwork()
    birch = village.peer("birch", blob_learner([2, 3], 2))
    async with village.peer("amber", blob_learner([0, 1], 1), state=tmp_path) as amber:
        async with birch:
            await amber.meet(1, timeout=30)
            await amber.run(1)
        assert len(amber.strategy.state_dict()["kept"]) == 1
    async with village.peer("amber", blob_learner([0, 1], 1), state=tmp_path) as amber:
        assert len(amber.strategy.state_dict()["kept"]) == 1
        await amber.run(1)  # the teacher is gone
        assert not amber.strategy.state_dict()["kept"]


async def test_a_version_is_on_disk_before_anybody_hears_of_it(tmp_path: Path) -> None:
    village = PeerNetwork()
    async with isolated(village, tmp_path) as amber:
        await amber.run(3)
    seen = [(e.kind, e.version if isinstance(e, Published) else e.round) for e in village.events["amber"].events
            if isinstance(e, Published | Saved)]  # fmt: skip
    assert seen == [(kind, n) for n in range(4) for kind in ("saved", "published")]


# ---------------------------------------------------------------- a save that fails


@contextlib.contextmanager
def small_disk(at: Path) -> Iterator[None]:
    """A file system of 64 kB."""
    at.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(at)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a full disk: mounting needs root here ({done.stderr.decode().strip()})")
    try:
        yield
    finally:
        while not subprocess.run(["umount", "-l", str(at)], capture_output=True, check=False).returncode:
            pass


def read_only(folder: Path) -> None:
    """As it is seen from now on, whoever has it open."""
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)


async def test_a_full_disk_costs_saves_and_not_learning_and_the_last_good_checkpoint_stays(tmp_path: Path) -> None:
    village, disk = PeerNetwork(), tmp_path / "disk"
    with small_disk(disk):
        async with isolated(village, disk / "state") as amber:
            await amber.run(1)
            good = checkpoint.load(disk / "state" / "checkpoint")
            with contextlib.suppress(OSError), (disk / "filler").open("wb") as filler:
                while True:
                    filler.write(b"x" * 512)
                    filler.flush()
            await amber.run(3)
            (failed,) = village.events["amber"].of(SaveFailed)
            assert "No space left on device; free space" in failed.why
            assert checkpoint.load(disk / "state" / "checkpoint")["progress"] == good["progress"]
            assert not [p for p in (disk / "state" / "checkpoint").iterdir() if "partial" in p.name]
            (disk / "filler").unlink()
            await amber.run(1)
            assert checkpoint.load(disk / "state" / "checkpoint")["progress"]["round"] == 5
        async with isolated(village, disk / "state") as amber:
            assert amber.rounds_done == 5


async def test_a_state_directory_that_turns_read_only_costs_saves_and_not_learning(tmp_path: Path) -> None:
    village, disk = PeerNetwork(), tmp_path / "disk"
    with small_disk(disk):
        async with isolated(village, disk / "state") as amber:
            await amber.run(1)
            read_only(disk / "state" / "checkpoint")
            await amber.run(2)
            (failed,) = village.events["amber"].of(SaveFailed)
            assert "Read-only file system" in failed.why
            assert amber.rounds_done == 3
        assert checkpoint.load(disk / "state" / "checkpoint")["progress"]["round"] == 1


async def test_a_state_directory_that_is_deleted_costs_saves_and_is_not_made_again(tmp_path: Path) -> None:
    village, state = PeerNetwork(), tmp_path / "state"
    async with isolated(village, state) as amber:
        await amber.run(1)
        shutil.rmtree(state)
        await amber.run(2)
        (failed,) = village.events["amber"].of(SaveFailed)
        assert failed.why == f"the state directory {state} is gone: put it back, or start again with another one"
    assert not state.exists()


def test_a_full_disk_costs_events_and_not_the_peer(tmp_path: Path) -> None:
    warnings: list[str] = []
    with small_disk(tmp_path / "disk"):
        file = tmp_path / "disk" / "events"
        with events_file(file, warnings.append) as sink:
            sink(SaveFailed(round=0, why="x" * 1000))
            for n in range(100):
                sink(SaveFailed(round=n, why="y" * 4000))
        assert json.loads(file.read_text().splitlines()[0])["why"] == "x" * 1000
    assert warnings == [f"events are lost until {file} can be written again: No space left on device"]


def test_a_read_only_directory_stops_the_start_with_a_sentence(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    disk = tmp_path / "disk"
    with small_disk(disk):
        read_only(disk)
        assert (
            main(
                [
                    "up",
                    "tests.integration.test_saving:a_learner",
                    "--strategy",
                    "isolated",
                    "--state",
                    str(disk / "state"),
                ]
            )
            == 6
        )
    assert "Read-only file system; choose another state directory" in capsys.readouterr().err


def a_learner() -> Any:
    return blob_learner([0, 1], 1)


# ---------------------------------------------------------------- damaged checkpoints


async def learn(village: PeerNetwork, state: Path, rounds: int = 2) -> Path:
    async with isolated(village, state) as amber:
        await amber.run(rounds)
    return state / "checkpoint" / "state.safetensors"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
async def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_it_goes_on(tmp_path: Path, damage: Any) -> None:
    village = PeerNetwork()
    path = await learn(village, tmp_path)
    damage(path)
    async with isolated(village, tmp_path) as amber:
        assert amber.rounds_done == 1
        (resumed,) = village.events["amber"].of(Resumed)
        if damage is not Path.unlink:
            assert "going on from the one before it" in resumed.why
            assert (path.parent / "damaged.safetensors").exists()
        await amber.run(1)
    straight = village.peer("straight", blob_learner([0, 1, 2, 3], 1), strategy="isolated")
    async with straight:
        await straight.run(2)
    assert same(dict(straight.learner.state), dict(amber.learner.state))


async def test_with_both_damaged_it_is_one_sentence_and_nothing_is_overwritten(tmp_path: Path) -> None:
    village = PeerNetwork()
    path = await learn(village, tmp_path)
    flip(path)
    cut(path.with_name("previous.safetensors"))
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    with pytest.raises(StateError, match="altered after it was saved"):
        await learn(village, tmp_path)
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before


async def test_a_damaged_save_on_the_way_costs_what_was_learned_since_the_snapshot(tmp_path: Path) -> None:
    village = PeerNetwork()
    path = await learn(village, tmp_path)
    path.with_name("span.safetensors").write_bytes(b"half a")
    async with isolated(village, tmp_path) as amber:
        assert amber.rounds_done == 2
        (resumed,) = village.events["amber"].of(Resumed)
        assert "learned again" in resumed.why


async def test_a_save_on_the_way_counts_only_on_top_of_its_own_snapshot(tmp_path: Path) -> None:
    village = PeerNetwork()
    path = await learn(village, tmp_path, 1)
    old = path.read_bytes()
    await learn(village, tmp_path, 1)
    path.with_name("span.safetensors").write_bytes(old)  # as after a power cut that a removal did not survive
    async with isolated(village, tmp_path) as amber:
        assert amber.rounds_done == 2


# ---------------------------------------------------------------- peerlearn resume, what cannot be resumed


def kept(state: Path, **changed: Any) -> None:
    state.mkdir()
    (state / "identity.key").write_text("")
    settings = {
        "format": "peerlearn run 1", "directory": str(Path(__file__).parents[2]), "name": "amber", "rounds": 2,
        "learner": "tests.integration.test_saving:a_learner", "strategy": "isolated", "peers": [], "listen": None,
        "insecure": False, "group": None, "group_tag": "", "events": None, "expose": None, "limits": {}, "cast": "",
        "save_every": 30.0, "since": 0, "options": {},
    }  # fmt: skip
    (state / "run.json").write_text(json.dumps(settings | changed))


def missing(state: Path) -> None: ...


def a_file(state: Path) -> None:
    state.write_text("")


def a_program(state: Path) -> None:
    state.mkdir()
    (state / "identity.key").write_text("")


def unreadable(state: Path) -> None:
    (state / "run.json").mkdir(parents=True)


def half(state: Path) -> None:
    kept(state)
    cut(state / "run.json")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (missing, "there is no"),
        (a_file, "is not a directory"),
        (Path.mkdir, "is no state directory: name the one given to peerlearn up --state"),
        (a_program, "holds a peer, but not how it was started"),
        (unreadable, "cannot read"),
        (half, "is damaged"),
        (lambda state: kept(state, format="peerlearn run 2"), "says 'peerlearn run 2', this peerlearn reads"),
        (lambda state: kept(state, peers="x"), "peers: a list is expected, not 'x'"),
        (lambda state: kept(state, limits={"calls": 0}), "limits: calls must be positive"),
        (lambda state: kept(state, limits={"calls": "many"}), "is damaged"),
        (lambda state: kept(state, limits={"tales": 1}), "is damaged"),
        (lambda state: kept(state, directory="/no/such/place"), "which cannot be entered"),
        (lambda state: kept(state, options=["role"]), "options: a table is expected, not ['role']"),
    ],
)
def test_what_cannot_be_resumed_is_one_sentence(make: Any, sentence: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "state")
    assert main(["resume", "state"]) == 6
    said = capsys.readouterr().err
    assert sentence in said
    assert said.startswith("peerlearn: ")
    assert said.count("\n") == 1


def test_a_directory_that_is_in_use_is_not_resumed(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    kept(tmp_path / "state")
    (tmp_path / "state" / "identity.key").unlink()
    with Identity.load_or_create(tmp_path / "state"):
        assert main(["resume", "state"]) == 5
    assert f"in use by another process (pid {os.getpid()})" in capsys.readouterr().err


# ---------------------------------------------------------------- lockstep and those who are absent


def test_absence_is_for_lockstep() -> None:
    with pytest.raises(ConfigError, match="absence is for lockstep"):
        Pace(absence=3.0)
    with pytest.raises(ConfigError, match="absence is for lockstep"):
        Pace(mode="lockstep", absence=-1.0)


@pytest.mark.parametrize("absence", [0.0, 60.0])
async def test_in_lockstep_others_wait_for_who_fell_silent_for_as_long_as_was_agreed(absence: float) -> None:
    village = PeerNetwork(timing=brisk())
    pace = Pace(mode="lockstep", absence=absence)
    peers = [village.peer(n, blob_learner([0, 1], 1), pace=pace) for n in ("amber", "birch")]
    amber, birch = peers
    async with amber:
        async with birch:
            await amber.meet(1, timeout=30)
            await birch.meet(1, timeout=30)
            async with asyncio.TaskGroup() as both:
                both.create_task(amber.run(1))
                both.create_task(birch.run(1))
            running = amber._assembly.orchestrator
            village.network.cut(birch.address)
            await until(lambda: not amber._assembly.directory.alive())
            running._goal = 4
            running.wake()
            if absence:
                with pytest.raises(TimeoutError):
                    await until(lambda: running.round == 4, within=0.5)
            else:
                await until(lambda: running.round == 4)
            village.network.mend(birch.address)
