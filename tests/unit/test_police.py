"""The police of the tests finds what a test leaves behind."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from tests.support import police


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(police, "PATIENCE", 0.1)


def test_a_test_that_leaves_nothing_is_let_go() -> None:
    before = police.Scene.now()
    assert police.left_for_good(before) == ""


def test_a_descriptor_that_is_left_is_named(impatient: None, tmp_path: Path) -> None:
    before = police.Scene.now()
    with (tmp_path / "open").open("w"):
        assert police.left_for_good(before) == f"file descriptors 1 x {tmp_path / 'open'}"


def test_a_thread_of_a_peer_is_found_even_if_it_is_a_daemon_and_a_library_s_is_not(impatient: None) -> None:
    before, end = police.Scene.now(), threading.Event()
    threads = [threading.Thread(target=end.wait, name=name, daemon=True) for name in ("amber:learner", "library")]
    threads.append(threading.Thread(target=end.wait, name="plain"))
    for thread in threads:
        thread.start()
    try:
        assert police.left_for_good(before) == "threads amber:learner, plain"
    finally:
        end.set()
        for thread in threads:
            thread.join()


def test_a_variable_that_is_left_is_named(impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    before = police.Scene.now()
    monkeypatch.setenv("LEFT_BEHIND", "1")
    for name in police.SET_BY_LIBRARIES - set(os.environ):
        monkeypatch.setenv(name, "1")
    assert police.left_for_good(before) == "environment variables LEFT_BEHIND"


def test_what_ends_a_moment_later_is_waited_for() -> None:
    before = police.Scene.now()
    timer = threading.Timer(0.1, lambda: None)
    timer.start()
    assert police.left_for_good(before) == ""


async def test_a_task_that_is_left_is_named(impatient: None) -> None:
    before = asyncio.all_tasks()
    async with asyncio.TaskGroup() as tasks:
        left = tasks.create_task(asyncio.Event().wait(), name="endless")
        passing = tasks.create_task(asyncio.sleep(0.02), name="passing")
        assert (await police.tasks_left(before)).startswith("endless (")
        assert passing.done()
        left.cancel()


async def test_a_task_that_has_ended_is_no_matter() -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asyncio.sleep(0))
    assert await police.tasks_left(asyncio.all_tasks()) == ""
