"""The codec rule on links of a known rate: two network namespaces joined by veth, held back by a token bucket."""

import asyncio
import os
import secrets
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from benchmarks.measuring import Measure, Scale, in_turn, lanes_of
from benchmarks.processes import Pair, Stage, Unable, side
from benchmarks.results import Bar, Result, median, paired

_LEFT, _RIGHT = "10.78.0.1", "10.78.0.2"
_DEVICE = "bench0"
_NEVER_WORSE = 0.9
_LEARN = 3
"""Rounds in which the link's rate is learned."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A link, and how much to send over it: a few tenths of a second's worth."""

    name: str
    bucket: tuple[str, ...]
    """tbf's words; none: as fast as the kernel copies."""
    megabytes: int


RATES = (
    Rate("100mbit", ("rate", "100mbit", "burst", "256kb", "latency", "20ms"), 4),
    Rate("1gbit", ("rate", "1gbit", "burst", "256kb", "latency", "20ms"), 32),
    Rate("10gbit", ("rate", "10gbit", "burst", "2mb", "latency", "20ms"), 64),
    Rate("unlimited", (), 64),
)
_LEAST = {("1gbit", "relu"): 1.4, ("1gbit", "zeros99"): 8.0}
"""Times as fast as without a codec, where it must pay."""


def link(rate: Rate) -> Measure:
    """Weights, ReLU maps and tensors of which 1 in 100 is not zero, by our rule and without a codec, in turn."""

    async def measure(stage: Stage, scale: Scale) -> Result:
        figures: dict[str, float | str] = {}
        bars: list[Bar] = []
        async with _linked(stage.group, rate) as pair:
            rounds = scale.times(9, 3)
            for kind in ("floats", "relu", "zeros99"):
                payload = f"{kind}-{rate.megabytes}mb"
                nbytes = await pair.hold(payload, raw=False)
                lanes = lanes_of(pair, payload, nbytes, "fabric", "fabric-none")
                took = await in_turn(lanes, rounds, warm=_LEARN)
                ahead = paired(took["fabric-none"], took["fabric"])
                figures |= {f"{kind}_s": median(took["fabric"]), f"{kind}_times_as_fast": ahead}
                least = _LEAST.get((rate.name, kind), _NEVER_WORSE)
                bars.append(Bar(f"{kind}: times as fast as without a codec", ahead, least))
        seconds = figures["floats_s"]
        assert isinstance(seconds, float)
        return Result(name=f"link-{rate.name}", seconds=seconds, n=rounds, figures=figures, bars=tuple(bars))

    return measure


@asynccontextmanager
async def _linked(group: str, rate: Rate) -> AsyncIterator[Pair]:
    """A provider and a consumer with this link between them. Raises Unable where it cannot be made."""
    if os.geteuid() != 0:
        raise Unable("network namespaces and tc need root")
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            raise Unable(f"there is no `{tool}` command (iproute2) here")
    tag = secrets.token_hex(2)
    left, right = f"pl-bench-a-{tag}", f"pl-bench-b-{tag}"
    async with AsyncExitStack() as stack:
        for space in (left, right):
            await _run("ip", "netns", "add", space)
            stack.push_async_callback(_run, "ip", "netns", "del", space)
        end = ("type", "veth", "peer", "name", _DEVICE, "netns", right)
        await _run("ip", "link", "add", _DEVICE, "netns", left, *end)
        for space, address in ((left, _LEFT), (right, _RIGHT)):
            await _run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", _DEVICE)
            await _run("ip", "-n", space, "link", "set", _DEVICE, "up")
            await _run("ip", "-n", space, "link", "set", "lo", "up")
            if rate.bucket:
                await _run("tc", "-n", space, "qdisc", "add", "dev", _DEVICE, "root", "tbf", *rate.bucket)
        provider = await stack.enter_async_context(side(within=("ip", "netns", "exec", left)))
        consumer = await stack.enter_async_context(side(within=("ip", "netns", "exec", right)))
        ports = await provider.do("provide", host=_LEFT, group=group, link=True)
        await consumer.do("consume", ports=ports, host=_LEFT, group=group)
        yield Pair(provider, consumer)


async def _run(*words: str) -> None:
    process = await asyncio.create_subprocess_exec(*words, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE)
    _, said = await process.communicate()
    if process.returncode:
        raise Unable(f"`{' '.join(words)}` failed: {said.decode(errors='replace').strip()}")
