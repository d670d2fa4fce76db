"""`scripts/mutants`: changes the pure modules in small ways, one at a time, and lists the changes that no test notices.

mutmut makes the changes and runs the tests, in a copy of the project in a temporary directory. `scripts/mutants.toml`
names the modules, their tests and the bar. Changes that mypy refuses are left out. A change is noticed if a test fails,
or if the tests do not end. mutmut changes functions and methods; it leaves properties and constants of modules alone.
Exit status 1: more changes go unnoticed than the bar allows, or the list of equivalents has a stale entry.
"""

import argparse
import ast
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COPIED = ("peerlearn", "scripts", "tests", "protos", "pyproject.toml", "README.md")
MUTMUT = (sys.executable, "-m", "mutmut")
LINE = re.compile(r"^\s+(\S+__mutmut_\d+): (.+)$")
REFUSED = "caught by type check"
NOTICED = ("killed", "timeout", "segfault")
PASSED_OVER = ("not checked", "skipped")

Keys = set[tuple[str, str, str]]
"""Module, line, and the line after the change."""

TYPES = """[mypy]
strict = true
warn_unused_ignores = false
ignore_missing_imports = true
untyped_calls_exclude = torch, peerlearn.wire.v1
disable_error_code = no-redef
[mypy-peerlearn.wire.v1.*]
ignore_errors = true
"""
"""Types of the changed modules are checked as scripts/check does it, but: mutmut gives a class one method per mutant,
so that each of several constructors declares the attributes anew."""


@dataclass(frozen=True, slots=True)
class Target:
    """A module to change, and the tests that should notice."""

    name: str
    file: str
    tests: tuple[str, ...]

    @property
    def dotted(self) -> str:
        return self.file.removesuffix(".py").replace("/", ".")


@dataclass(frozen=True, slots=True)
class Change:
    """One mutant: the lines that it takes out and puts in, without their indentation."""

    module: str
    was: str
    becomes: str
    line: int

    @property
    def key(self) -> tuple[str, str, str]:
        """By this the list of equivalents names it: lines may move."""
        return self.module, self.was, self.becomes


@dataclass(frozen=True, slots=True)
class Settings:
    bar: float
    """Share of the mutants that may survive."""
    targets: tuple[Target, ...]
    equivalent: Keys
    """Keys of the mutants that behave like the original."""


def settings() -> Settings:
    tree: dict[str, Any] = tomllib.loads((ROOT / "scripts" / "mutants.toml").read_text("utf-8"))
    targets = tuple(Target(name, its["file"], tuple(its["tests"])) for name, its in tree["modules"].items())
    equivalent = {(its["module"], its["was"], its["becomes"]) for its in tree.get("equivalent", ())}
    return Settings(tree["bar"], targets, equivalent)


def lay_out(copy: Path, targets: Sequence[Target]) -> None:
    """Copy the project, and add the settings of mutmut to its pyproject.toml."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    (copy / "mypy.ini").write_text(TYPES, "utf-8")
    mypy = f"-m mypy --config-file {copy / 'mypy.ini'} --output json -p peerlearn"
    table = {
        "source_paths": ["peerlearn"],
        "only_mutate": [target.file for target in targets],
        "also_copy": ["scripts"],
        "pytest_add_cli_args": ["-q", "-x", "-p", "no:cacheprovider"],
        "pytest_add_cli_args_test_selection": [test for target in targets for test in target.tests],
        "type_check_command": [sys.executable, *mypy.split(" ")],
        # Workers are forked from a process that has loaded the tests and not run them, so it has no threads yet.
        "process_isolation": "forkserver",
    }
    with (copy / "pyproject.toml").open("a", encoding="utf-8") as file:
        # A JSON list of texts is a TOML list of texts.
        file.write("\n[tool.mutmut]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items()))


def run(copy: Path, tenth: int | None) -> dict[str, str]:
    """Run mutmut. Returns the outcome of each mutant by its name."""
    only = [] if tenth is None else [f"*__mutmut_*{tenth}"]
    with (copy / "mutmut.log").open("w+", encoding="utf-8") as log:
        done = subprocess.run([*MUTMUT, "run", *only], cwd=copy, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            log.seek(0)
            sys.exit("\n".join(["mutants: mutmut failed", *log.read().replace("\r", "\n").splitlines()[-40:]]))
    shown = subprocess.run([*MUTMUT, "results", "--all", "true"], cwd=copy, capture_output=True, text=True, check=True)
    found = [LINE.match(line) for line in shown.stdout.splitlines()]
    return {one[1]: one[2] for one in found if one and one[2] not in PASSED_OVER}


def change(copy: Path, target: Target, mutant: str) -> Change:
    """What this mutant changes. Its name is MODULE.x_FUNCTION__mutmut_N or MODULE.xǁCLASSǁMETHOD__mutmut_N."""
    shown = subprocess.run([*MUTMUT, "show", mutant], cwd=copy, capture_output=True, text=True, check=True).stdout
    body = [line for line in shown.splitlines() if not line.startswith(("---", "+++", "#"))]
    parts = mutant.removeprefix(f"{target.dotted}.x").rsplit("__mutmut_", 1)[0]
    path = parts.strip("ǁ").split("ǁ") if parts.startswith("ǁ") else [parts.removeprefix("_")]
    line = _first_line((copy / target.file).read_text("utf-8"), path)
    for text in body:
        if header := re.match(r"@@ -(\d+)", text):
            line += int(header[1]) - 1
        elif text.startswith("-"):
            break
        else:
            line += 1
    was, becomes = (" ".join(text[1:].strip() for text in body if text.startswith(sign)) for sign in "-+")
    return Change(target.name, was, becomes, line)


def _first_line(source: str, path: Sequence[str]) -> int:
    """The line at which the function of this name begins; for a method the path is class and name."""
    body, line = ast.parse(source).body, 0
    for name in path:
        defined = [node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
        body, line = next((node.body, node.lineno) for node in defined if node.name == name)
    return line


def report(copy: Path, chosen: Sequence[Target], outcomes: dict[str, str], rules: Settings) -> tuple[int, Keys]:
    """Say what became of each module's mutants. Returns how many survived, and the keys of all that went unnoticed."""
    seen: Keys = set()
    missed = 0
    for target in chosen:
        own = {name: outcome for name, outcome in outcomes.items() if name.startswith(f"{target.dotted}.x")}
        unnoticed = [change(copy, target, name) for name, outcome in own.items() if outcome not in NOTICED]
        survivors = [its for its in unnoticed if its.key not in rules.equivalent]
        same = len(unnoticed) - len(survivors)
        say(f"{target.name}: {len(own)} mutants, {same} of them equivalent, {len(survivors)} survived")
        for its in survivors:
            say(f"  {target.file}:{its.line}\n    - {its.was}\n    + {its.becomes}")
        missed += len(survivors)
        seen |= {its.key for its in unnoticed}
    return missed, seen


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    rules = settings()
    names = [target.name for target in rules.targets]
    parser = argparse.ArgumentParser(prog="scripts/mutants", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("module", nargs="*", help=f"one of {', '.join(names)}; all if none is named")
    parser.add_argument("--tenth", type=int, choices=range(10), help="only mutants whose number ends in this digit")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.module) - set(names)):
        parser.error(f"no such module: {', '.join(unknown)}; choose from {', '.join(names)}")
    chosen = [target for target in rules.targets if not asked.module or target.name in asked.module]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder)
        lay_out(copy, chosen)
        every = run(copy, asked.tenth)
        outcomes = {name: outcome for name, outcome in every.items() if outcome != REFUSED}
        missed, seen = report(copy, chosen, outcomes, rules)
    expected = {key for key in rules.equivalent if key[0] in {target.name for target in chosen}}
    stale = sorted(expected - seen) if asked.tenth is None else []
    for name, was, becomes in stale:
        say(f"mutants.toml: no such survivor of {name}:\n    - {was}\n    + {becomes}")
    if not outcomes:
        sys.exit("mutants: there are none")
    share = missed / len(outcomes)
    say(f"types refused {len(every) - len(outcomes)} mutants and let {len(outcomes)} through")
    say(f"of these {missed} survived the tests: {share:.1%}; the bar is {rules.bar:.0%}")
    return 1 if stale or share > rules.bar else 0


if __name__ == "__main__":
    sys.exit(main())
