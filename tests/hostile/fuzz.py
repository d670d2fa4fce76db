"""`scripts/fuzz`: torments a live peer with mutated calls while it trains, and compares it with a twin left in peace.

Shown: inputs tried and at what rate, how they were answered, memory and file descriptors before and after, and whether
the model is that of the twin, bit for bit. Exit status 0: nothing was found. 1: something was; the input that did it is
saved, and `--replay FILE` sends it again.
"""

import argparse
import asyncio
import itertools
import random
import re
import secrets
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from peerlearn.errors import RefusalReason
from peerlearn.transport.exchange.unary import MARK
from peerlearn.transport.grpc.server import EXCHANGE, SERVICE
from peerlearn.wire.v1 import fabric_pb2 as pb
from tests.hostile.mutate import Case, Input, mutated
from tests.hostile.processes import Sample, Worker, sample, worker
from tests.hostile.recorded import calls

MIB = 1 << 20
ABREAST = 24
LINES = 4
GROWTH_MIB = 16
"""What memory may grow by after the first fifth of the time, whatever was sent."""
MORE_FDS = 8
HANG = 20.0
"""Seconds within which every call must have ended; the peer gives up on a silent one after two."""
CUT_SHORT = "Internal error from Core"
"""What gRPC's own client says when the other end has ended a call while it writes."""
PEER: dict[str, Any] = {
    "name": "target", "classes": [0, 1], "seed": 1, "strategy": "gossip", "keeps": True, "unseen": True,
}  # fmt: skip


class Found(Exception):
    """An input has done harm."""

    def __init__(self, why: str, culprit: Input) -> None:
        super().__init__(why)
        self.culprit = culprit


class Caught(Exception):
    """The same, with all that is needed to send it again."""

    def __init__(self, case: Case) -> None:
        super().__init__(case.why)
        self.case = case


@dataclass
class Tally:
    tried: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)


# ---------------------------------------------------------------- one input


async def send(channel: grpc.aio.Channel, given: Input, *, half_open: bool = False) -> str:
    """How it was answered, in a few words. Raises Found when the peer has failed over it."""
    try:
        async with asyncio.timeout(HANG):
            return await _send(channel, given, half_open)
    except TimeoutError:
        raise Found(f"no end within {HANG:g} s", given) from None
    except grpc.aio.AioRpcError as error:
        return _status(error.code(), error.details() or "", given)


async def _send(channel: grpc.aio.Channel, given: Input, half_open: bool) -> str:
    method = EXCHANGE if given.call == "UnaryExchange" else f"/{SERVICE}/{given.call}"
    if given.call == "Introduce":
        introduce: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        await introduce(given.messages[0])
        return "introduced"
    if given.call == "Watch":
        watch: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(method)
        stream = watch(given.messages[0])
        try:
            await stream.read()
            return "watched" if not stream.done() else _status(await stream.code(), await stream.details() or "", given)
        finally:
            stream.cancel()
    if given.call == "UnaryExchange":
        unary: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        return _said(await unary(given.messages[0], metadata=((MARK, "1"),)))
    exchange: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(method)
    call = exchange()
    try:
        with suppress(asyncio.InvalidStateError):  # it has ended the call already: what it said can still be read
            for message in given.messages:
                await call.write(message)
            if half_open:
                return "left half open"
            await call.done_writing()
        last = b""
        while isinstance(reply := await call.read(), bytes):
            last = reply
        code = await call.code()
        return _said(last) if code is grpc.StatusCode.OK else _status(code, await call.details() or "", given)
    finally:
        call.cancel()


def _said(last: bytes) -> str:
    frame = pb.Frame.FromString(last)
    kind = frame.WhichOneof("body")
    if kind != "header":
        return {"trailer": "answered", "proceed": "promised"}.get(kind or "", "nothing")
    header = frame.header
    if header.HasField("refusal"):
        return f"refused ({header.refusal.reason}): {_gist(header.refusal.detail)}"
    return "not modified" if header.HasField("not_modified") else "answered"


def _status(code: grpc.StatusCode, details: str, given: Input) -> str:
    if code is grpc.StatusCode.OK:
        return "ended"
    if details == CUT_SHORT:
        return "ended before all was sent"
    if code in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE):
        raise Found(f"{code.name}: {details}", given)
    reason, colon, said = details.partition(": ")
    if code is grpc.StatusCode.FAILED_PRECONDITION and colon and reason in frozenset(RefusalReason):
        return f"refused ({reason}): {_gist(said)}"
    return f"{code.name.lower().replace('_', ' ')}: {_gist(details)}"


def _gist(said: str) -> str:
    """A refusal's sentence without what differs from one to the next."""
    return re.sub(r"'[^']*'|[0-9a-f]{12,}|\d+", "..", said)[:72]


# ---------------------------------------------------------------- many


class Storm:
    """Several calls at a time over several connections, for so many seconds."""

    def __init__(self, target: Worker, seeds: list[Input], seconds: float, seed: int) -> None:
        self._target = target
        self._seeds = seeds
        self._pause = min(2.0, seconds / 10)
        self._seed = seed
        self._numbers = itertools.count()
        self._end = time.monotonic() + seconds
        self.tally = Tally()

    async def rage(self) -> None:
        """Raises Found, in a group."""
        address = self._target.said["listening"]["address"]
        own = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(address, options=own) for _ in range(LINES)]
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._sample())
                tasks.create_task(self._stay_known(channels[0]))
                for n in range(ABREAST):
                    tasks.create_task(self._torment(channels[n % LINES]))
        finally:
            for channel in channels:
                await channel.close()

    async def _torment(self, channel: grpc.aio.Channel) -> None:
        while time.monotonic() < self._end:
            rng = random.Random(f"{self._seed}:{next(self._numbers)}")
            given = mutated(self._seeds, rng)
            said = await send(channel, given, half_open=rng.random() < 0.02)
            self.tally.answers[f"{given.call:13} {said}"] += 1
            self.tally.tried += 1

    async def _stay_known(self, channel: grpc.aio.Channel) -> None:
        """An honest introduction is answered all the time; and without it, no question gets further than its sender."""
        honest = introduction_of(self._seeds)
        while time.monotonic() < self._end:
            if (said := await send(channel, honest)) != "introduced":
                raise Found(f"an honest introduction is answered by {said!r}", honest)
            await asyncio.sleep(0.3)

    async def _sample(self) -> None:
        while time.monotonic() < self._end:
            if self._target.process.returncode is not None:
                raise AssertionError(f"the peer has ended: {self._target.process.returncode}")
            self.tally.samples.append(sample(self._target.pid))
            await asyncio.sleep(self._pause)


async def fuzz(seconds: float, seed: int, log: Path) -> list[str]:
    """What is wrong; nothing, when all is well. Raises Found."""
    tag = secrets.token_hex(4)
    seeds = await calls(tag)
    seeds += [each for each in seeds if each.call in ("Exchange", "UnaryExchange")]  # the most to go wrong in
    with log.open("wb") as errors:
        async with worker(errors=errors, tag=tag, pause=0.02, **PEER) as target:
            before = sample(target.pid)
            began = time.monotonic()
            storm = Storm(target, seeds, seconds, seed)
            try:
                await storm.rage()
            except* Found as group:
                found = next(_leaves(group))
                raise Caught(Case(tag, introduction_of(seeds), found.culprit, str(found))) from found
            tally = storm.tally
            took = time.monotonic() - began
            await asyncio.sleep(3.0)  # what was left half open has been given up
            after = sample(target.pid)
            own = await target.finish()
    async with worker(tag=tag, rounds=own["round"], **PEER) as twin:
        other = await twin.says("done", within=600)
    settled = tally.samples[len(tally.samples) // 5] if tally.samples else before
    for answer, count in sorted(tally.answers.items()):
        print(f"{count:8}  {answer}")
    print(f"inputs   {tally.tried} in {took:.0f} s: {tally.tried / took:.0f} per second (seed {seed})")
    memory = [f"{each.rss / MIB:.1f}" for each in (before, settled, after)]
    print(f"memory   {memory[0]} MiB before, {memory[1]} after a fifth, {memory[2]} after")
    print(f"files    {before.fds} before, {after.fds} after; threads {before.threads} before, {after.threads} after")
    print(f"model    {own['model'][:16]} after {own['round']} rounds, its twin's {other['model'][:16]}")
    return list(_wrong(before, settled, after, own["model"] == other["model"], log))


def _wrong(before: Sample, settled: Sample, after: Sample, same: bool, log: Path) -> Any:
    if after.rss - settled.rss > GROWTH_MIB * MIB:
        yield f"memory has grown by {(after.rss - settled.rss) / MIB:.1f} MiB"
    if after.fds > before.fds + MORE_FDS:
        yield f"{after.fds - before.fds} more file descriptors are open than before"
    if not same:
        yield "the model is not that of its twin"
    if "Traceback" in (said := log.read_text(errors="replace")):
        yield f"the peer has written a traceback:\n{said[-3000:]}"


def introduction_of(seeds: list[Input]) -> Input:
    return next(each for each in seeds if each.call == "Introduce")


async def replay(path: Path) -> str:
    """The answer to a saved input, of a fresh peer. Raises Found."""
    case = Case.load(path)
    async with worker(errors=None, tag=case.tag, pause=0.02, **PEER) as target:
        async with grpc.aio.insecure_channel(target.said["listening"]["address"]) as channel:
            await send(channel, case.introduction)
            return await send(channel, case.culprit)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default 60; 600 for 100,000 inputs)")
    parser.add_argument("--seed", type=int, default=0, help="another one makes other inputs (default 0)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="send one saved input to a fresh peer")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-found"), help="where inputs that do harm are saved")
    options = parser.parse_args(arguments)
    if options.replay is not None:
        return _replayed(options.replay)
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        try:
            wrong = asyncio.run(fuzz(options.seconds, options.seed, log))
        except* Caught as group:
            wrong = [_keep(next(_leaves(group)).case, options.keep)]
            print(log.read_text(errors="replace")[-3000:], file=sys.stderr)
    for sentence in wrong:
        print(f"WRONG    {sentence}", file=sys.stderr)
    print("verdict  " + ("unharmed" if not wrong else "HARMED"))
    return 1 if wrong else 0


def _replayed(path: Path) -> int:
    wrong: list[str] = []
    try:
        print(asyncio.run(replay(path)))
    except* Found as group:
        wrong.append(str(next(_leaves(group))))
    for sentence in wrong:
        print(f"WRONG    {sentence}", file=sys.stderr)
    return len(wrong)


def _keep(case: Case, directory: Path) -> str:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{secrets.token_hex(4)}.json"
    case.save(path)
    return f"{case.why}\n         the input is in {path}: scripts/fuzz --replay {path}"


def _leaves(group: BaseExceptionGroup[Any]) -> Any:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(each)
        else:
            yield each


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
