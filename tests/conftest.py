"""What holds for all tests."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Names are the same in every process: by them tests are handed out to several. Sets and addresses are not."""
    for item in items:
        spec = getattr(item, "callspec", None)
        values = spec.params.values() if spec is not None else ()
        sets = [value for value in values if isinstance(value, set | frozenset) and len(value) > 1]
        if " at 0x" in item.nodeid or any(str(value) in item.nodeid for value in sets):
            raise pytest.UsageError(f"{item.nodeid} has another name in another process: give it an id")
