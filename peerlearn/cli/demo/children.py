"""The demo's processes: started together, listened to, and never left behind."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from peerlearn.cli.demo.child_events import CHILD_EVENTS, Finished, Hello
from peerlearn.errors import PeerlearnError, StateError
from peerlearn.events import Event, from_json

LINE_BYTES = 1 << 20
GRACE = 4.0
"""Seconds for a child to leave after its parent has let go of it."""

PEER = (sys.executable, "-m", "peerlearn.cli.demo.peer")
"""The command of a child; its spec follows as one JSON argument."""

Heard = Callable[[int, Event], None]
"""Takes the number of a child, and an event of it."""


class ChildFailed(PeerlearnError):
    """A process of the demo ended early; carries its exit code and its last sentence."""

    def __init__(self, who: str, code: int, said: str) -> None:
        how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        super().__init__(f"{who} {how}: {said or 'it said nothing'}")
        self.exit_code = 128 - code if code < 0 else code


class Children:
    """Processes that speak JSON lines on stdout and live only while their parent holds their stdin."""

    def __init__(
        self,
        specs: Sequence[Mapping[str, Any]],
        *,
        heard: Heard,
        muttered: Callable[[int, str], None] = lambda number, line: None,
        command: Sequence[str] = PEER,
    ) -> None:
        """`heard` takes the events of a child, `muttered` each line of its stderr."""
        self._muttered = muttered
        self._command = command
        self._specs = specs
        self._heard = heard
        self._names = [f"peer {number}" for number in range(len(specs))]
        self._finished: set[int] = set()
        self._all_finished = asyncio.Event()

    async def run(self) -> None:
        """Until every child has finished and left. Raises ChildFailed as soon as one of them ends early."""
        async with self._started() as processes, asyncio.TaskGroup() as group:
            for number, process in enumerate(processes):
                group.create_task(self._follow(number, process), name=f"demo:{number}")
            await self._all_finished.wait()
            for process in processes:
                _let_go(process)

    @asynccontextmanager
    async def _started(self) -> AsyncIterator[list[Process]]:
        processes: list[Process] = []
        try:
            for spec in self._specs:
                processes.append(await _start(self._command, spec))  # noqa: PERF401 - each must be ended even if the next fails
            yield processes
        finally:
            await _end(processes)

    async def _follow(self, number: int, process: Process) -> None:
        last_words: deque[str] = deque(maxlen=40)

        def mutter(line: str) -> None:
            last_words.append(line)
            self._muttered(number, line)

        async with asyncio.TaskGroup() as group:
            group.create_task(_read(process.stderr, mutter), name=f"demo:{number}:stderr")
            await _read(process.stdout, lambda line: self._line(number, line))
        code = await process.wait()
        if code or number not in self._finished:
            raise ChildFailed(self._names[number], code or 1, _sentence(last_words))

    def _line(self, number: int, line: str) -> None:
        try:
            event = from_json(line, also=CHILD_EVENTS).event
        except StateError:
            return  # a library that prints on stdout: not our words
        match event:
            case Hello():
                self._names[number] = event.name
            case Finished():
                self._finished.add(number)
                if len(self._finished) == len(self._specs):
                    self._all_finished.set()
        self._heard(number, event)


async def _start(command: Sequence[str], spec: Mapping[str, Any]) -> Process:
    """In a session of its own: Ctrl-C reaches the parent alone, and the parent decides."""
    return await asyncio.create_subprocess_exec(
        *command, json.dumps(spec),
        stdin=PIPE, stdout=PIPE, stderr=PIPE, limit=LINE_BYTES, start_new_session=True,
        env=dict(os.environ, OMP_NUM_THREADS="1", GRPC_ENABLE_FORK_SUPPORT="0"),
    )  # fmt: skip


async def _read(stream: asyncio.StreamReader | None, take: Callable[[str], object]) -> None:
    assert stream is not None
    while line := await stream.readline():
        if text := line.decode(errors="replace").rstrip():
            take(text)


def _sentence(words: Sequence[str]) -> str:
    """What the child said for people: its own error line, else the last line of its traceback that has words."""
    ours = [line.removeprefix("peerlearn: ") for line in words if line.startswith("peerlearn: ")]
    spoken = [text for line in words if (text := line.strip(" |+-"))]
    return (ours or spoken or [""])[-1]


def _let_go(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.close()


async def _end(processes: Sequence[Process]) -> None:
    """Let all of them go, wait a little, and kill those that are still there. Reads what they still say, so that their
    pipes are closed with them."""
    for process in processes:
        _let_go(process)
    deadline = asyncio.get_running_loop().time() + GRACE
    for process in processes:
        try:
            async with asyncio.timeout_at(deadline):
                await process.communicate()
        except TimeoutError:
            if process.returncode is None:
                process.kill()
            await process.communicate()
