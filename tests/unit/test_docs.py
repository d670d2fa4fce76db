"""What the pages say is there: files, links, commands and options, public names; and every decision is in the index."""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer.main

import peerlearn
from peerlearn.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "adr").glob("*.md")),
]
TOP = ("peerlearn", "tests", "scripts", "docs", "examples", "protos")
ROOMS = sorted(path.name for path in (ROOT / "peerlearn").iterdir() if path.is_dir())
FILE = re.compile(r"^[\w./-]+$")


def of_page(path: Path) -> str:
    return str(path.relative_to(ROOT))


def quoted(text: str) -> Iterator[str]:
    """What stands between backticks on one line, blocks of code left out."""
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def commands() -> dict[str, set[str]]:
    """By words after `peerlearn`: the options of that command."""

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, set[str]]]:
        yield " ".join(words), {option for param in command.params for option in param.opts} | {"--help"}
        for name, below in getattr(command, "commands", {}).items():
            yield from walk(below, (*words, name))

    return dict(walk(typer.main.get_command(app), ()))


@pytest.mark.parametrize("page", PAGES, ids=of_page)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    for word in quoted(page.read_text(encoding="utf-8")):
        first, _, rest = word.partition("/")
        if not rest or not FILE.match(word):
            continue
        if first in TOP:
            assert (ROOT / word).exists(), word
        elif first in ROOMS:
            assert (ROOT / "peerlearn" / word).exists(), word


@pytest.mark.parametrize("page", PAGES, ids=of_page)
def test_test_files_that_a_page_names_are_there(page: Path) -> None:
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    for name in re.findall(r"\btest_\w+\.py", page.read_text(encoding="utf-8")):
        assert name in tests, name


@pytest.mark.parametrize("page", PAGES, ids=of_page)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target or target.startswith("NNNN"):
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there.read_text(encoding="utf-8")), target


def anchors(text: str) -> set[str]:
    """Of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=of_page)
def test_commands_that_a_page_names_exist_with_their_options(page: Path) -> None:
    known = commands()
    for line in page.read_text(encoding="utf-8").splitlines():
        pieces = [line] if line.startswith(("    ", "peerlearn ")) else re.findall(r"`([^`]+)`", line)
        for piece in pieces:
            for said in re.findall(r"(?:^ *|; )peerlearn ((?:[a-z]+ ?)+)(.*?)(?:  |$|;)", piece):
                name, rest = command_in(said[0].split(), known), said[1]
                assert name, f"peerlearn {said[0]}"
                for option in re.findall(r"(?<!\S)--[a-z-]+", rest):
                    assert option in known[name], f"peerlearn {name} {option}"


def command_in(words: list[str], known: dict[str, set[str]]) -> str:
    """The longest beginning that is a command; "" where there is none."""
    return next((name for n in range(len(words), 0, -1) if (name := " ".join(words[:n])) in known), "")


@pytest.mark.parametrize("page", PAGES, ids=of_page)
def test_names_of_the_package_that_a_page_uses_are_public(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"\bpl\.(\w+)", text):
        assert name in peerlearn.__all__, f"pl.{name}"
    for name in re.findall(r"(?<![\w/.])peerlearn\.([a-z_]+)\b", text):
        assert name in peerlearn.__all__ or find_spec(f"peerlearn.{name}"), f"peerlearn.{name}"


def test_each_decision_is_in_the_index_once_with_its_title() -> None:
    adr = ROOT / "docs" / "adr"
    index = (adr / "README.md").read_text(encoding="utf-8")
    pages = sorted(adr.glob("[0-9]*.md"))
    assert [path.name[:4] for path in pages] == [f"{n:04d}" for n in range(1, len(pages) + 1)]
    for path in pages:
        title = path.read_text(encoding="utf-8").splitlines()[0].removeprefix(f"# {path.name[:4]} ")
        assert index.count(f"| [{path.name[:4]}]({path.name}) | {title} |") == 1, path.name


def test_pictures_of_the_readme_show_on_a_package_index() -> None:
    for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")):
        base = "https://raw.githubusercontent.com/peerlearn/peerlearn/main/"
        assert target.startswith(base), target
        assert (ROOT / target.removeprefix(base)).exists(), target
