"""The tree is the drawing: modules say what they are and stay small, imports go down only, tests stand apart."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "peerlearn"
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE / "wire" / "v1")
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MOST_LINES = 350
MOST_LINES_OF = {"peer.py": 250}
MOST_ARGUMENTS = 12
"""Of a constructor. Dataclasses are values and settings, read by name: they may have more."""


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_says_what_it_is_and_stays_small(path):
    text = path.read_text(encoding="utf-8")
    assert not text or ast.get_docstring(ast.parse(text)), "line 1 of a module says what it is"
    most = MOST_LINES_OF.get(str(path.relative_to(PACKAGE)), MOST_LINES)
    assert len(text.splitlines()) <= most, "a module this long has two reasons to change"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_constructor_is_given_a_handful_of_things(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs][1:]
            assert len(given) <= MOST_ARGUMENTS, f"line {node.lineno}: {', '.join(each.arg for each in given)}"


def test_the_drawing_is_the_tree():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawing = page.split("```")[1]
    drawn = {name.rstrip("/") for name in re.findall(r"[\w.]+(?:/|\.py\b)", re.sub(r"/\w+/", "/", drawing))}
    tree = {p.name for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert drawn == tree


@pytest.mark.parametrize("path", TESTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_test_file_imports_another(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = []
        if isinstance(node, ast.ImportFrom):
            modules = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        for module in modules:
            assert not re.match(r"tests\.(\w+\.)*test_\w+", module), "what is shared is in peerlearn.testing or support"


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
