"""What holds for all tests."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support import police


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Names are the same in every process: by them tests are handed out to several. Sets and addresses are not."""
    for item in items:
        spec = getattr(item, "callspec", None)
        values = spec.params.values() if spec is not None else ()
        sets = [value for value in values if isinstance(value, set | frozenset) and len(value) > 1]
        if " at 0x" in item.nodeid or any(str(value) in item.nodeid for value in sets):
            raise pytest.UsageError(f"{item.nodeid} has another name in another process: give it an id")


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Fails a test that leaves a thread, a file descriptor or an environment variable. Opened before all other fixtures
    of a test, so that it looks when they are closed; what a module's fixtures hold was there before."""
    before = police.Scene.now()
    yield
    if found := police.left_for_good(before):
        pytest.fail(f"the test has left behind: {found}")


@pytest.fixture(autouse=True)
def no_task_is_left_behind(request: pytest.FixtureRequest, nothing_is_left_behind: None) -> None:
    """The same for tasks; only asynchronous tests have a loop to leave them in."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("tasks_are_watched")


@pytest.fixture
async def tasks_are_watched() -> AsyncIterator[None]:
    """Looks while the test's loop still runs: closing it would cancel what is left."""
    before = asyncio.all_tasks()
    yield
    watching = asyncio.current_task()
    if found := await police.tasks_left(before | ({watching} if watching is not None else set())):
        pytest.fail(f"the test has left behind these tasks: {found}")
