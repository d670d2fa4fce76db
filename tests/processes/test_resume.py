"""Nothing is lost: processes that are killed at any moment and resumed come to the same bits as if nothing had been."""

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from peerlearn.learning import checkpoint
from peerlearn.testing import bits

ROUNDS = 3
STEPS = 54
"""Of a round."""
FORGE = Path(__file__).with_name("forge.py")
APP = """
    import os, time, torch
    import peerlearn as pl

    class Slow(torch.nn.Module):
        def forward(self, x):
            if self.training:
                time.sleep(float(os.environ.get("SECONDS", 0)))
            return x

    def learner():
        torch.manual_seed(0)
        x = torch.randn(480, 4, generator=torch.Generator().manual_seed(1))
        net = torch.nn.Sequential(
            Slow(), torch.nn.Linear(4, 64), torch.nn.BatchNorm1d(64), torch.nn.ReLU(), torch.nn.Dropout(0.2),
            torch.nn.Linear(64, 2))
        return pl.Learner(net, (x, (x[:, 0] > 0).long()), classes=2, batch_size=16)
"""


class Forge:
    """Starts processes and tells how they ended; see forge.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._alive: set[int] = set()

    def start(self, log: Path, **order: Any) -> int:
        pid = int(self._say({"log": str(log), **order}))
        self._alive.add(pid)
        return pid

    def wait(self, pid: int) -> int:
        self._alive.discard(pid)
        return int(self._say({"wait": pid}))

    def done(self, log: Path, **order: Any) -> None:
        """A process that ends by itself, and well."""
        assert self.wait(self.start(log, **order)) == 0, text(log)

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self.wait(pid)

    def clear(self) -> None:
        for pid in tuple(self._alive):
            self.kill(pid)

    def _say(self, order: dict[str, Any]) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


@pytest.fixture(scope="module")
def forged() -> Iterator[Forge]:
    with subprocess.Popen([sys.executable, str(FORGE)], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Forge(process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def forge(forged: Forge) -> Iterator[Forge]:
    yield forged
    forged.clear()


def write_app(folder: Path) -> str:
    (folder / "app_to_resume.py").write_text(textwrap.dedent(APP))
    return "app_to_resume:learner"


@pytest.fixture
def app(tmp_path: Path) -> str:
    return write_app(tmp_path)


def up(app: str, *more: str) -> list[str]:
    tag = secrets.token_hex(4)
    return ["up", app, "--strategy", "isolated", "--rounds", str(ROUNDS), "--state", "state", "--group-tag", tag, *more]


def learned(state: Path) -> str:
    """Digest of all that goes on: model, optimizer, generators, position, strategy, progress."""
    return bits(checkpoint.load(state / "checkpoint"))


def text(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def rest(seconds: float, over: Callable[[], bool]) -> bool:
    """Until it is over, or the time is; whether it is over."""
    end = time.monotonic() + seconds
    while not (it_is := over()) and time.monotonic() < end:
        time.sleep(0.005)
    return it_is


def ended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


def says(pid: int, file: Path, what: str, *, times: int = 1) -> None:
    """Until it stands there so many times, or the process has ended."""
    rest(60, lambda: ended(pid) or text(file).count(what) >= times)


def runs_on(pid: int, seconds: float) -> None:
    rest(seconds, lambda: ended(pid))


@pytest.fixture(scope="module")
def straight(forged: Forge, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What an uninterrupted run comes to."""
    folder = tmp_path_factory.mktemp("straight")
    forged.done(folder / "log", run=up(write_app(folder)), cwd=str(folder))
    return learned(folder / "state")


# ---------------------------------------------------------------- kill -9


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 10))])
def test_killed_at_random_moments_and_resumed_a_run_comes_to_the_same_bits(
    forge: Forge, app: str, straight: str, tmp_path: Path, seed: int
) -> None:
    """Saved on the way every 20 ms, so that kills hit the middle of a span; the first comes before a round is over."""
    draw = random.Random(seed)
    run = up(app, "--save-every", "0.02")
    for attempt in range(3):
        log = tmp_path / f"log{attempt}"
        pid = forge.start(log, run=run, cwd=str(tmp_path), env={"SECONDS": "0.01"})
        says(pid, log, "listens")
        runs_on(pid, draw.uniform(0.0, 0.5))
        forge.kill(pid)
        run = ["resume", "state"]
    forge.done(tmp_path / "log", run=run, cwd=str(tmp_path))
    assert learned(tmp_path / "state") == straight


@pytest.mark.parametrize(("what", "n"), [("fsync", 5), ("replace", 9), ("fsync", 23)])
def test_killed_in_the_middle_of_a_checkpoint_write_nothing_is_lost(
    forge: Forge, app: str, straight: str, tmp_path: Path, what: str, n: int
) -> None:
    order: dict[str, Any] = {"cwd": str(tmp_path), "env": {"SECONDS": "0.005"}, "crash": [what, n]}
    run = up(app, "--save-every", "0.01")
    assert forge.wait(forge.start(tmp_path / "log1", run=run, **order)) == -signal.SIGKILL
    run = ["resume", "state"]
    assert forge.wait(forge.start(tmp_path / "log2", run=run, **order)) == -signal.SIGKILL
    forge.done(tmp_path / "log3", run=run, cwd=str(tmp_path))
    assert learned(tmp_path / "state") == straight


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
def test_a_peer_in_lockstep_that_is_killed_and_resumed_changes_no_bit_of_its_own_or_of_the_others_run(
    forge: Forge, tmp_path: Path, seed: int
) -> None:
    """Two processes distil from one another over gRPC; one of them is killed three times at random moments."""

    def given(name: str, kind: str) -> dict[str, Any]:
        seat = {"amber": ([0, 1], 1), "birch": ([2, 3], 2)}[name]
        return {
            "name": name, "classes": seat[0], "seed": seat[1], "rounds": 8, "tag": f"{kind}{tmp_path.name}",
            "state": str(tmp_path / kind / name), "events": str(tmp_path / kind / f"{name}.jsonl"), "save_every": 0.05,
        }  # fmt: skip

    def both_done(kind: str) -> bool:
        kept = [tmp_path / kind / name for name in ("amber", "birch")]
        return all('"version": 8}' in text(state.with_suffix(".jsonl")) for state in kept)

    def start(name: str, kind: str) -> int:
        (tmp_path / kind).mkdir(exist_ok=True)
        return forge.start(tmp_path / f"{kind}-{name}.log", pair=given(name, kind))

    pids = [start(name, "straight") for name in ("amber", "birch")]
    assert rest(90, lambda: both_done("straight")), text(tmp_path / "straight-amber.log")
    for pid in pids:
        forge.kill(pid)

    draw = random.Random(seed)
    start("birch", "killed")
    for _ in range(3):
        pid = start("amber", "killed")
        events = tmp_path / "killed" / "amber.jsonl"
        says(pid, events, '"published"', times=text(events).count('"published"') + 2)
        runs_on(pid, draw.uniform(0.0, 0.3))
        forge.kill(pid)
    start("amber", "killed")
    assert rest(90, lambda: both_done("killed")), text(tmp_path / "killed-amber.log")
    for name in ("amber", "birch"):
        one, two = (checkpoint.load(tmp_path / kind / name / "checkpoint") for kind in ("killed", "straight"))
        assert bits(one["learner"]) == bits(two["learner"]), name
        assert len(one["strategy"]["kept"]) == 1, "it has a teacher"


# ---------------------------------------------------------------- SIGTERM, Ctrl-C


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_in_a_long_epoch_a_peer_saves_within_five_seconds_and_goes_on_to_the_same_bits(
    forge: Forge, app: str, straight: str, tmp_path: Path, number: signal.Signals
) -> None:
    """A round takes 27 s here; the peer is stopped within the first."""
    run, events = up(app, "--events", "events"), tmp_path / "events"
    pid = forge.start(tmp_path / "log", run=run, cwd=str(tmp_path), env={"SECONDS": "0.5"})
    says(pid, events, '"phase"')
    runs_on(pid, 1.2)
    span = tmp_path / "state" / "checkpoint" / "span.safetensors"
    assert not span.exists()
    os.kill(pid, number)
    assert rest(5.0, span.exists), text(tmp_path / "log")
    assert forge.wait(pid) == 0
    assert 0 < checkpoint.load(span.parent, name="span")["progress"]["into"] < STEPS
    forge.done(tmp_path / "log2", run=["resume", str(tmp_path / "state")])
    assert learned(tmp_path / "state") == straight
    assert "goes on from round 0" in text(tmp_path / "log2")
