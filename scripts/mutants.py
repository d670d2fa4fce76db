"""`scripts/mutants`: changes the pure modules in small ways, one at a time, and lists the changes that no test notices.

mutmut makes the changes and runs the tests, in a copy of the project in a temporary directory. `scripts/mutants.toml`
names the modules, their tests and the bar. A change is caught if a test fails, if the tests do not end, or if mypy
refuses it. Exit status 1: more changes than the bar allows got through, or an entry of the list of equivalents is stale.
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
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COPIED = ("peerlearn", "scripts", "tests", "protos", "pyproject.toml", "README.md")
MUTMUT = (sys.executable, "-m", "mutmut")
LINE = re.compile(r"^\s+(\S+__mutmut_\d+): (.+)$")
CAUGHT = ("killed", "timeout", "caught by type check", "segfault")
PASSED_OVER = ("not checked", "skipped")

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

    was: str
    becomes: str
    line: int


@dataclass(frozen=True, slots=True)
class Settings:
    bar: float
    """Share of the mutants that may survive."""
    targets: tuple[Target, ...]
    equivalent: frozenset[tuple[str, str, str]]
    """Module, line and changed line of mutants that behave like the original."""


def settings() -> Settings:
    tree: dict[str, Any] = tomllib.loads((ROOT / "scripts" / "mutants.toml").read_text("utf-8"))
    targets = tuple(Target(name, its["file"], tuple(its["tests"])) for name, its in tree["modules"].items())
    equivalent = frozenset((its["module"], its["was"], its["becomes"]) for its in tree.get("equivalent", ()))
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
    mypy = [sys.executable, "-m", "mypy", "--config-file", str(copy / "mypy.ini"), "--output", "json", "-p", "peerlearn"]
    table = {
        "source_paths": ["peerlearn"],
        "only_mutate": [target.file for target in targets],
        "also_copy": ["scripts"],
        "pytest_add_cli_args": ["-q", "-x", "-p", "no:cacheprovider"],
        "pytest_add_cli_args_test_selection": [test for target in targets for test in target.tests],
        "type_check_command": mypy,
        # Workers are forked from a process that has loaded the tests and not run them, so it has no threads yet.
        "process_isolation": "forkserver",
    }
    with (copy / "pyproject.toml").open("a", encoding="utf-8") as file:
        # A JSON list of texts is a TOML list of texts.
        file.write("\n[tool.mutmut]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items()))


def run(copy: Path, tenth: int | None) -> dict[str, str]:
    """Run mutmut. Returns the outcome of each mutant by its name."""
    only = [] if tenth is None else [f"*__mutmut_{tenth}", f"*__mutmut_*{tenth}"]
    with (copy / "mutmut.log").open("w+", encoding="utf-8") as log:
        done = subprocess.run([*MUTMUT, "run", *only], cwd=copy, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            log.seek(0)
            sys.exit("\n".join(["mutants: mutmut failed", *log.read().replace("\r", "\n").splitlines()[-40:]]))
    shown = subprocess.run([*MUTMUT, "results", "--all", "true"], cwd=copy, capture_output=True, text=True, check=True)
    outcomes = dict(found.groups() for line in shown.stdout.splitlines() if (found := LINE.match(line)))
    return {name: outcome for name, outcome in outcomes.items() if outcome not in PASSED_OVER}


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
    return Change(was, becomes, line)


def _first_line(source: str, path: Sequence[str]) -> int:
    """The line at which the function of this name begins; for a method the path is class and name."""
    body: list[ast.stmt] = ast.parse(source).body
    for name in path:
        (node,) = (n for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) if n.name == name)
        body = node.body
    return node.lineno


def report(copy: Path, chosen: Sequence[Target], outcomes: dict[str, str], rules: Settings, *, whole: bool) -> bool:
    """Print what got through. Returns True if it is within the bar and the list of equivalents is true."""
    seen: set[tuple[str, str, str]] = set()
    total = missed = 0
    for target in chosen:
        own = {name: outcome for name, outcome in outcomes.items() if name.startswith(f"{target.dotted}.x")}
        through = {name: change(copy, target, name) for name, outcome in own.items() if outcome not in CAUGHT}
        keys = {name: (target.name, its.was, its.becomes) for name, its in through.items()}
        seen |= set(keys.values())
        survivors = [name for name in through if keys[name] not in rules.equivalent]
        total, missed = total + len(own), missed + len(survivors)
        kinds = Counter(outcome for outcome in own.values() if outcome in CAUGHT)
        print(f"{target.name}: {len(own)} mutants, {', '.join(f'{n} {kind}' for kind, n in kinds.most_common())}, "
              f"{len(through) - len(survivors)} equivalent, {len(survivors)} survived")  # fmt: skip
        for name in survivors:
            print(f"  {target.file}:{through[name].line} ({own[name]})\n    - {through[name].was}\n    + {through[name].becomes}")
    names = {target.name for target in chosen}
    stale = [key for key in sorted(rules.equivalent) if key[0] in names and key not in seen] if whole else []
    for module, was, becomes in stale:
        print(f"mutants.toml: no such survivor in {module}: - {was} + {becomes}")
    share = missed / max(total, 1)
    print(f"mutants: {missed} of {total} survived: {share:.1%}; at most {rules.bar:.0%}")
    return total > 0 and share <= rules.bar and not stale


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
        outcomes = run(copy, asked.tenth)
        return 0 if report(copy, chosen, outcomes, rules, whole=asked.tenth is None) else 1


if __name__ == "__main__":
    sys.exit(main())
