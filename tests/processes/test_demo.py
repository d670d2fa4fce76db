"""The demo as a whole: separate processes, real mDNS, real gRPC, two demos at once, and nobody left behind."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import Process
from pathlib import Path
from typing import Any

import psutil
import pytest

from peerlearn.cli.demo import children, picture
from peerlearn.cli.demo.child_events import CHILD_EVENTS, Finished, Hello
from peerlearn.cli.demo.children import ChildFailed, Children
from peerlearn.events import Event, Fetched, PeerChanged, Started, Stopped, Unknown, read_events

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
MARKS = {"private", "remote", "shared"}


async def start(*arguments: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "peerlearn", "demo", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=ENV,
    )  # fmt: skip


async def line_of(process: Process) -> bytes:
    assert process.stdout is not None
    line = await process.stdout.readline()
    assert line, "the demo ended early"
    return line


async def finish(process: Process) -> tuple[dict[str, Any], str]:
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out.decode().splitlines()[-1]), err.decode()


def events(run_dir: Path, name: str) -> list[Event]:
    recorded = list(read_events(run_dir / f"events-{name}.jsonl", also=CHILD_EVENTS))
    assert not [each for each in recorded if isinstance(each.event, Unknown)]
    assert {each.source_name for each in recorded} == {name}
    return [each.event for each in recorded]


async def test_two_demos_at_once_do_not_mix(tmp_path):
    """Each of two demos on one LAN meets, learns from and reports its own peers only."""
    common = ("--rounds", "1", "--peers", "2", "--json")
    first = await start(*common, "--out", str(tmp_path / "first"))
    second = await start(*common, "--out", str(tmp_path / "second"), "--strategy", "pairwise")
    ids = []
    for process, strategy in ((first, "distillation"), (second, "pairwise")):
        result, said = await finish(process)
        _check_result(result, strategy)
        assert "amber" in said
        run_dir = Path(result["run_dir"])
        mine = [*events(run_dir, "amber"), *events(run_dir, "birch")]
        own = {e.id for e in mine if isinstance(e, Started)}
        met = {e.peer for e in mine if isinstance(e, PeerChanged) and e.status == "confirmed"}
        assert met == own
        fetched = sum(e.received_bytes for e in mine if isinstance(e, Fetched))
        assert result["bytes_received"] == fetched > 100_000
        ids.append(own)
        _check_run_directory(run_dir)
    assert ids[0].isdisjoint(ids[1])


def _check_result(result: dict[str, Any], strategy: str) -> None:
    assert list(result) == ["strategy", "rounds", "seconds", "bytes_received", "run_dir", "peers"]
    assert (result["strategy"], result["rounds"]) == (strategy, 1)
    assert [p["name"] for p in result["peers"]] == ["amber", "birch"]
    assert sorted(c for p in result["peers"] for c in p["classes"]) == list(range(10))
    for peer, other in zip(result["peers"], ("birch", "amber"), strict=True):
        assert list(peer) == ["name", "classes", "learned_from", "isolated", "final"]
        assert peer["learned_from"] == [other]
        for side in ("isolated", "final"):
            assert set(peer[side]) == MARKS
            assert all(0 <= mark <= 1 for mark in peer[side].values())


def _check_run_directory(run_dir: Path) -> None:
    config = json.loads((run_dir / "config.json").read_text())
    assert config["seed"] == 0
    assert config["versions"]["torch"]
    results = json.loads((run_dir / "results.json").read_text())
    for peer in results["peers"]:
        for matrix in peer["confusion"].values():
            assert sum(map(sum, matrix)) == 1000
    assert (run_dir / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert list((run_dir / "amber").rglob("*.safetensors"))


async def test_isolated_peers_meet_nobody_and_equal_their_twins(tmp_path):
    result, _ = await finish(
        await start("--strategy", "isolated", "--rounds", "1", "--peers", "2", "--json", "--out", str(tmp_path / "run"))
    )
    assert result["bytes_received"] == 0
    for peer in result["peers"]:
        assert peer["learned_from"] == []
        assert peer["final"] == peer["isolated"], "the same passes from the same start, alone"


async def test_peers_leave_when_their_parent_is_killed(tmp_path):
    process = await start("--rounds", "500", "--peers", "2", "--out", str(tmp_path / "run"))
    async with asyncio.timeout(60):
        while b"round 1/" not in await line_of(process):
            pass
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) == 2
    process.kill()
    await process.communicate()
    _, alive = await asyncio.to_thread(psutil.wait_procs, family, timeout=30)
    assert not alive


CHILD = """
import json, os, signal, sys, time
from peerlearn.cli.boundary import guarded
from peerlearn.cli.demo.child_events import Finished, Hello
from peerlearn.errors import NetworkError
from peerlearn.events import Recorded, Stopped, as_json

def say(event): print(as_json(Recorded(event=event)), flush=True)

def main():
    spec = json.loads(sys.argv[1])
    say(Hello(name=spec["name"], classes=(), rounds=os.getpid()))
    print("a library prints this", flush=True)
    print(json.dumps({"and": "this"}), flush=True)
    if spec["does"] == "fail":
        raise NetworkError("no multicast here")
    if spec["does"] == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if spec["does"] == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    if spec["does"] == "finish":
        say(Finished())
    sys.stdin.read()
    say(Stopped(round=1, why="let go"))

sys.exit(guarded(main))
"""


async def family(**does: str) -> tuple[dict[str, list[Event]], BaseException | None]:
    """Children that do what they are told; what was heard of each, and how it ended."""
    heard: dict[str, list[Event]] = {name: [] for name in does}
    specs = [{"name": name, "does": what} for name, what in does.items()]
    names = list(does)
    ran = Children(
        specs, heard=lambda n, event: heard[names[n]].append(event), command=(sys.executable, "-c", CHILD)
    )  # fmt: skip
    try:
        await ran.run()
    except BaseExceptionGroup as group:
        return heard, group
    return heard, None


def pid_of(hello: Hello) -> int:
    """These children have no rounds to do, and say their process instead."""
    return hello.rounds


def sole(group: BaseException | None) -> BaseException | None:
    while isinstance(group, BaseExceptionGroup):
        assert len(group.exceptions) == 1
        group = group.exceptions[0]
    return group


async def test_children_are_let_go_when_all_have_finished():
    heard, failure = await family(amber="finish", birch="finish")
    assert failure is None
    for events_of in heard.values():
        assert [type(e) for e in events_of] == [Hello, Finished, Stopped]


@pytest.mark.parametrize(
    ("does", "code", "sentence"),
    [
        ("fail", 4, "amber failed with exit code 4: no multicast here"),
        ("crash", 128 + signal.SIGSEGV, "amber was ended by signal 11"),
    ],
)
async def test_the_child_that_fails_is_named_and_takes_the_others_along(does, code, sentence, monkeypatch):
    monkeypatch.setattr(children, "GRACE", 0.5)
    heard, failure = await family(amber=does, birch="wait", cedar="hang")
    error = sole(failure)
    assert isinstance(error, ChildFailed)
    assert (error.exit_code, str(error).startswith(sentence)) == (code, True)
    for events_of in heard.values():
        assert not any(psutil.pid_exists(pid_of(e)) for e in events_of if isinstance(e, Hello))


async def test_interrupting_the_parent_ends_the_children(monkeypatch):
    monkeypatch.setattr(children, "GRACE", 0.5)
    pids: list[int] = []
    both = asyncio.Event()

    def heard(number, event):
        if isinstance(event, Hello):
            pids.append(pid_of(event))
        if len(pids) == 2:
            both.set()

    ran = Children(
        [{"name": "amber", "does": "hang"}, {"name": "birch", "does": "wait"}],
        heard=heard,
        command=(sys.executable, "-c", CHILD),
    )
    async with asyncio.TaskGroup() as group:
        running = group.create_task(ran.run())
        async with asyncio.timeout(60):
            await both.wait()
        running.cancel()
    assert not any(map(psutil.pid_exists, pids))


def test_the_last_sentence_is_the_childs_own():
    assert children._sentence(["noise", "peerlearn: no multicast here", "more noise"]) == "no multicast here"
    assert children._sentence(["Traceback ...", "ValueError: x"]) == "ValueError: x"
    assert children._sentence(["  | TypeError: y", "    +-----------------"]) == "TypeError: y"
    assert children._sentence([]) == ""


def test_without_matplotlib_there_is_no_picture_and_no_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert picture.confusion_png([], tmp_path / "x.png") is None
