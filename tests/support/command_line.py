"""The command line in processes of its own, and in this one."""

import asyncio
import json
import os
import secrets
import signal
import sys
import textwrap
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from peerlearn.testing import timed

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


APP = """
    import time, torch
    import peerlearn as pl

    class Unhurried(torch.nn.Module):  # its peer learns on for as long as a test looks, and leaves the processor to it
        def forward(self, x):
            if self.training:
                time.sleep(0.05)
            return x

    def net():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2), Unhurried())

    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    y = (x[:, 0] > 0).long()

    def learner():
        return pl.Learner(net(), (x, y), classes=2)

    def needs_more(a):
        return learner()

    def breaks():
        return [][1]

    def leaves():
        raise SystemExit("no GPU here")

    def empty():
        return pl.Learner(net(), (x[:0], y[:0]), classes=2)

    def labels():
        return pl.Learner(net(), (x, y + 1), classes=2)

    def not_a_number():
        bad = x.clone()
        bad[3, 1] = float("nan")
        return pl.Learner(net(), (bad, y), classes=2)

    model = net()
    number = 3
"""


@pytest.fixture
def app(tmp_path, monkeypatch):
    """A user's app in the working directory; the name of its module."""
    name = f"app_{secrets.token_hex(4)}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(APP))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return name


class Shell:
    """A running `peerlearn up`, read line by line."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def until(self, *texts: str, seconds: float = 90) -> str:
        """Until each of these was said, in any order; the last line."""
        missing = set(texts)
        async with asyncio.timeout(seconds):
            while True:
                assert self.process.stdout is not None
                line = (await self.process.stdout.readline()).decode()
                assert line, f"ended without saying {missing}: {self.lines}, {await self.process.communicate()}"
                self.lines.append(line)
                missing = {text for text in missing if text not in line}
                if not missing:
                    return line

    async def interrupt(self) -> tuple[int | None, float, str, str]:
        """Ctrl-C; the exit code, the seconds it took, and the rest of what was said."""
        with timed() as watch:
            self.process.send_signal(signal.SIGINT)
            out, err = await self.process.communicate()
        return self.process.returncode, watch.seconds, out.decode(), err.decode()


@asynccontextmanager
async def up(app: str, *arguments: str) -> AsyncIterator[Shell]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "peerlearn", "up", f"{app}:learner", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=ENV,
    )  # fmt: skip
    try:
        yield Shell(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
def tag():
    return f"test-{secrets.token_hex(6)}"


async def listing(amount: int, *arguments: str) -> dict[str, Any]:
    """What `ls` tells; once more when somebody is missing, as on a machine that was busy while it looked."""
    for _ in range(3):
        listed = await look("ls", *arguments)
        if len(listed["peers"]) == amount:
            break
    return listed


async def look(*arguments: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "peerlearn", *arguments, "--json", stdout=asyncio.subprocess.PIPE, env=ENV
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out
    seen: dict[str, Any] = json.loads(out.decode().splitlines()[-1])
    return seen
