"""Many: consumers of one provider, peers that average, peers in one process; and how soon a peer is there at all."""

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE
from contextlib import AsyncExitStack

from benchmarks.measuring import Measure, Scale, in_turn
from benchmarks.names import STATE_300KB
from benchmarks.processes import LOOPBACK, Remote, SideFailed, Stage, environment, side
from benchmarks.results import Bar, Result, median, paired

_ROUND_MS = {2: 12.0, 4: 20.0, 8: 45.0}
_SMALLEST_MS = {2: 6.8, 4: 11.0, 8: 25.0}
"""What the smallest peer took on the machine on which these bars were set (TRANSPORT, section E)."""
_WARM_ROUNDS = 3
_MANY, _MANY_S, _MANY_BARE_S = 50, 3.0, 1.8
_FIRST_S, _FIRST_BARE_S = 0.15, 0.067
"""The bars in seconds, and what bare gRPC took on the machine on which they were set."""


def consumers(count: int) -> Measure:
    """All ask one provider at once, over connections of their own, from one process."""

    async def measure(stage: Stage, scale: Scale) -> Result:
        pair, payload = await stage.pair(), "floats-32mb" if scale.quick or count > 4 else "floats-100mb"
        nbytes = await pair.hold(payload)
        spread: list[float] = []

        async def all_of(lane: str) -> float:
            took = await pair.consumer.do("crowd", payload=payload, nbytes=nbytes, consumers=count, lane=lane)
            if lane == "fabric":
                spread.append(min(took) / max(took))
            return float(max(took))

        lanes = {"tcp": lambda: all_of("tcp"), "fabric": lambda: all_of("fabric")}
        took = await in_turn(lanes, scale.times(9, 2))
        await pair.provider.do("drop", payload=payload)
        ours = median(took["fabric"])
        return Result(
            name=f"consumers-{count}", seconds=ours, n=len(took["fabric"]),
            ratio_to_tcp=paired(took["tcp"], took["fabric"]),
            figures={
                "payload": payload, "gb_per_s_all": count * nbytes / ours / 1e9, "first_to_last": median(spread)
            },
        )  # fmt: skip

    return measure


def averaging(peers: int) -> Measure:
    """An epoch of a small MLP and the mean of all, peers in processes of their own: seconds of one round, beside those
    of the smallest program that does the same."""

    async def measure(stage: Stage, scale: Scale) -> Result:
        rounds = scale.times(50, 10)
        async with AsyncExitStack() as stack:
            ours = await _party(stack, peers, smallest=False)
            bare = await _party(stack, peers, smallest=True)
            for party in (ours, bare):
                await _rounds(party, _WARM_ROUNDS)
            lanes = {"ours": lambda: _rounds(ours, rounds), "bare": lambda: _rounds(bare, rounds)}
            took = await in_turn(lanes, scale.times(5, 1), warm=0)
        best, ratio = median(took["ours"]), 1 / paired(took["bare"], took["ours"])
        return Result(
            name=f"averaging-{peers}", seconds=best, n=rounds * len(took["ours"]), ratio_to_aio=1 / ratio,
            figures={"smallest_peer_ms": 1e3 * median(took["bare"])},
            bars=(
                Bar("a round, ms", 1e3 * best, _ROUND_MS[peers], "at most"),
                Bar("times that of the smallest peer", ratio, _ROUND_MS[peers] / _SMALLEST_MS[peers], "at most"),
            ),
        )  # fmt: skip

    return measure


async def _party(stack: AsyncExitStack, peers: int, *, smallest: bool) -> list[Remote]:
    members = [await stack.enter_async_context(side()) for _ in range(peers)]
    async with asyncio.TaskGroup() as group:
        for member in members:
            group.create_task(member.do("load"))
    addresses: list[str] = []
    for number, member in enumerate(members):
        joined = await member.do("join", number=number, peers=peers, addresses=addresses, smallest=smallest)
        addresses.append(joined)
    return members


async def _rounds(members: list[Remote], rounds: int) -> float:
    """Seconds of one, by the slowest of them."""
    async with asyncio.TaskGroup() as group:
        told = [group.create_task(member.do("rounds", rounds=rounds)) for member in members]
    return float(max(task.result() for task in told) / rounds)


async def fifty_peers(stage: Stage, scale: Scale) -> Result:
    """Full mesh over gRPC in one process, without models: until each has met all others; beside bare servers of which
    each has called all others."""
    meshes: list[dict[str, float]] = []

    async def mesh(*, bare: bool) -> float:
        async with side() as one:
            met = await one.do("village", peers=_MANY, bare=bare)
        if not bare:
            meshes.append(met)
        return float(met["seconds"])

    took = await in_turn({"ours": lambda: mesh(bare=False), "bare": lambda: mesh(bare=True)}, scale.times(3, 1), warm=0)
    seconds, ratio = median(took["ours"]), 1 / paired(took["bare"], took["ours"])
    resident = max(mesh["resident_mb"] for mesh in meshes)
    return Result(
        name="fifty-peers", seconds=seconds, n=len(meshes), ratio_to_aio=1 / ratio,
        extra_rss_mb_provider=max(mesh["resident_mb"] - mesh["before_mb"] for mesh in meshes),
        figures={
            "met": min(mesh["met"] for mesh in meshes), "resident_mb": resident,
            "descriptors": max(mesh["descriptors"] for mesh in meshes),
            "threads": max(mesh["threads"] for mesh in meshes), "bare_s": median(took["bare"]),
        },
        bars=(
            Bar("resident MB", resident, 250, "at most"),
            Bar("seconds until all have met", seconds, _MANY_S, "at most"),
            Bar("times as long as bare calls", ratio, _MANY_S / _MANY_BARE_S, "at most"),
        ),
    )  # fmt: skip


async def start_to_first(stage: Stage, scale: Scale) -> Result:
    """From starting a Python program to the end of its first exchange, 300 kB, without torch; beside one that uses
    gRPC and nothing of ours."""
    pair = await stage.pair()
    await pair.hold(STATE_300KB)
    ports = await pair.provider.do("ports")
    whole: list[float] = []

    async def ours() -> float:
        start = time.perf_counter()
        seconds = await _first(f"{LOOPBACK}:{ports['plain']}")
        whole.append(time.perf_counter() - start)
        return seconds

    lanes = {"ours": ours, "bare": lambda: _first("bare", f"{LOOPBACK}:{ports['bare']}")}
    took = await in_turn(lanes, scale.times(15, 4))
    after, ratio = median(took["ours"]), 1 / paired(took["bare"], took["ours"])
    return Result(
        name="start-to-first-exchange", seconds=median(whole), n=len(took["ours"]), ratio_to_aio=1 / ratio,
        figures={"after_the_interpreter_s": after, "bare_s": median(took["bare"])},
        bars=(
            Bar("seconds from the program's first line", after, _FIRST_S, "at most"),
            Bar("times as long as a program with bare gRPC", ratio, _FIRST_S / _FIRST_BARE_S, "at most"),
        ),
    )  # fmt: skip


async def _first(*words: str) -> float:
    """Seconds from the first line of a program that asks once to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.first", *words, STATE_300KB, stdout=PIPE,
        env={**environment(), "PYTHONDONTWRITEBYTECODE": ""},  # compiled in the round that does not count
    )  # fmt: skip
    said = (await process.communicate())[0]
    if process.returncode or not said:
        raise SideFailed(f"the program that asks once ended with code {process.returncode}")
    told = json.loads(said)
    if told["torch"]:
        raise SideFailed("the program that asks once has loaded torch")
    return float(told["seconds"])


async def discovery(stage: Stage, scale: Scale) -> Result:
    """mDNS on loopback: from announcing to being seen; and from looking to seeing one who is there already."""
    async with side() as one:
        took = await one.do("discover", times=scale.times(7, 2))
    return Result(
        name="discovery", seconds=median(took["seen"]), n=len(took["seen"]),
        figures={"late_join_s": median(took["late"])},
        bars=(
            Bar("seconds from register to seen", median(took["seen"]), 0.1, "at most"),
            Bar("seconds of a late join", median(took["late"]), 0.3, "at most"),
        ),
    )  # fmt: skip
