"""The tree is the diagram: public names exist, modules say what they are and stay small, imports go down only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import peerlearn

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "peerlearn"
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE / "wire" / "v1")
MOST_LINES = 450


def test_public_names_are_sorted_and_all_of_them_exist():
    lazy = {**peerlearn._HOMES, **peerlearn._ROOMS}
    assert sorted(lazy) == sorted(peerlearn.__all__) == sorted(set(peerlearn.__all__))
    for name in peerlearn.__all__:
        found = getattr(peerlearn, name)
        assert getattr(found, "__name__", name).rpartition(".")[2] == name


def test_types_that_checkers_see_are_the_names_that_programs_get():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert set(seen) == set(peerlearn.__all__)
    for name, home in peerlearn._HOMES.items():
        assert seen[name] == f"peerlearn.{home}"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Pear'"):
        peerlearn.Pear  # noqa: B018


def test_importing_peerlearn_imports_neither_torch_nor_grpc():
    probe = "import sys, peerlearn; sys.exit(any(m in sys.modules for m in ('torch', 'grpc', 'zeroconf', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_says_what_it_is_and_stays_small(path):
    text = path.read_text(encoding="utf-8")
    assert not text or ast.get_docstring(ast.parse(text)), "line 1 of a module says what it is"
    assert len(text.splitlines()) <= MOST_LINES, "a module this long has two reasons to change"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_unpickled_or_evaluated(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "compile")
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
            assert not {"pickle", "marshal", "shelve", "dill"} & {n.partition(".")[0] for n in names}


def test_import_contracts_hold():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_every_script_says_what_it_does_and_runs_from_anywhere():
    for script in sorted((ROOT / "scripts").iterdir()):
        if script.is_file() and script.read_text(encoding="utf-8").startswith("#!/bin/sh"):
            lines = script.read_text(encoding="utf-8").splitlines()
            assert lines[1].startswith("# "), script
            assert any(line.startswith("set -eu") for line in lines), script
            assert script.stat().st_mode & 0o111, script
