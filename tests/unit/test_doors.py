"""The three doors, `peerlearn`, `peerlearn.extending` and `peerlearn.testing`: complete, light, and documented."""

import ast
import importlib
import inspect
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import peerlearn
from peerlearn import extending, strategies, testing
from peerlearn.strategies.registry import _found

DOORS: dict[str, Any] = {"peerlearn": peerlearn, "peerlearn.extending": extending, "peerlearn.testing": testing}
PROTOCOLS = ("Discovery", "Guard", "Listener", "Pipe", "Separable", "Service", "Sink", "Strategy", "Transport")
"""A method that implements one of these is documented there."""


@pytest.mark.parametrize("door", DOORS)
def test_its_tables_name_the_same_names_and_homes(door: str) -> None:
    module = DOORS[door]
    rooms = getattr(module, "_ROOMS", {"conformance": "conformance"})
    lazy = {**module._HOMES, **rooms}
    assert sorted(lazy) == sorted(module.__all__) == sorted(set(module.__all__))
    assert module.__file__ is not None
    prefix = "peerlearn.testing" if door == "peerlearn.testing" else "peerlearn"
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert set(seen) == set(module.__all__)
    for name, home in module._HOMES.items():
        assert seen[name] == f"{prefix}.{home}", name
    for name, home in rooms.items():
        assert seen[name] == f"{prefix}.{home}".rpartition(".")[0], name


@pytest.mark.parametrize("door", DOORS)
def test_every_name_is_there(door: str) -> None:
    for name in DOORS[door].__all__:
        assert getattr(DOORS[door], name) is not None
    assert set(DOORS[door].__all__) <= set(dir(DOORS[door]))
    with pytest.raises(AttributeError, match="no attribute 'Pear'"):
        DOORS[door].Pear  # noqa: B018


@pytest.mark.parametrize("door", DOORS)
def test_importing_it_imports_neither_torch_nor_grpc(door: str) -> None:
    probe = f"import sys, {door}; sys.exit(any(m in sys.modules for m in ('torch', 'grpc', 'zeroconf', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def test_the_testing_package_imports_no_test_framework() -> None:
    probe = (
        "import sys; from peerlearn.testing import *; sys.exit(any(m in sys.modules for m in ('pytest', '_pytest')))"
    )
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def test_every_strategy_is_public() -> None:
    for name in strategies.names():
        kind = _found()[name].load()
        assert getattr(peerlearn, kind.__name__, None) is kind, name


def test_every_error_that_is_raised_on_purpose_is_public() -> None:
    errors = importlib.import_module("peerlearn.errors")
    kinds = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)}
    assert kinds - {"Changed"} <= {*peerlearn.__all__, *extending.__all__}, "Changed never reaches a caller"


def public_names() -> Iterator[tuple[str, Any]]:
    for door, module in DOORS.items():
        for name in module.__all__:
            yield f"{door}.{name}", getattr(module, name)


def undocumented(path: str, thing: Any) -> Iterator[str]:
    if inspect.ismodule(thing) or inspect.isfunction(thing):
        if not inspect.getdoc(thing):
            yield path
    elif inspect.isclass(thing) and thing.__module__.startswith("peerlearn."):
        if not own_doc(thing):
            yield path
        for name, member in vars(thing).items():
            if not name.startswith("_") and is_method(member) and not documented(thing, name):
                yield f"{path}.{name}"


def own_doc(kind: type) -> bool:
    """A dataclass without a docstring is given its signature as one."""
    doc = kind.__dict__.get("__doc__") or ""
    return bool(doc) and not doc.startswith(f"{kind.__name__}(")


def is_method(member: Any) -> bool:
    return isinstance(member, types.FunctionType | property | classmethod | staticmethod)


def documented(kind: type, name: str) -> bool:
    promised = (getattr(getattr(extending, protocol), name, None) for protocol in PROTOCOLS)
    return bool(inspect.getdoc(getattr(kind, name))) or any(inspect.getdoc(method) for method in promised if method)


def test_every_public_name_has_a_docstring() -> None:
    missing = sorted({where for path, thing in public_names() for where in undocumented(path, thing)})
    assert not missing, "\n".join(missing)


def test_public_functions_of_public_rooms_have_docstrings() -> None:
    missing: list[str] = []
    for path, module in public_names():
        if inspect.ismodule(module) and module.__name__.startswith("peerlearn.") and "wire.v1" not in module.__name__:
            for name, thing in vars(module).items():
                if not name.startswith("_") and getattr(thing, "__module__", "").startswith("peerlearn."):
                    missing += undocumented(f"{path}.{name}", thing)
    assert not missing, "\n".join(sorted(missing))
