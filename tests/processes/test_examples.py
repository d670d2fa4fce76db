"""The examples run as they are written, two processes each, and find each other."""

import asyncio
import os
import re
import secrets
import sys
from asyncio.subprocess import Process
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
EMBEDDING = ("fabric_drives.py", "own_loop.py", "blocking.py")
MOST_LINES = 40


async def python(*arguments: object, **environment: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, *map(str, arguments), cwd=EXAMPLES,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **environment},
    )  # fmt: skip


async def said(process: Process) -> str:
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.mark.parametrize("example", EMBEDDING)
async def test_two_of_them_find_each_other_and_learn(example):
    tag = f"example-{secrets.token_hex(6)}"
    both = [await python(example, name, 1, tag) for name in ("amber", "birch")]
    for name, process in zip(("amber", "birch"), both, strict=True):
        text = await said(process)
        assert name in text
        assert re.search(r"\d+\.\d%", text) or "samples with" in text


async def test_your_own_model_comes_up_and_leaves():
    process = await python(
        "-m", "peerlearn", "up", "my_app.model:learner", "--name", "amber", "--rounds", "1",
        "--group-tag", f"example-{secrets.token_hex(6)}", MY_APP_CLASSES="0-0",
    )  # fmt: skip
    assert "amber left after 1 rounds" in await said(process)


@pytest.mark.parametrize("example", EMBEDDING)
def test_embedding_fits_on_a_screen(example):
    assert len((EXAMPLES / example).read_text(encoding="utf-8").splitlines()) <= MOST_LINES
