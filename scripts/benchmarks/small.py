"""Small messages: how many, how soon, and how soon beside big ones."""

from collections.abc import Sequence

from benchmarks.measuring import Scale, in_turn, lanes_of
from benchmarks.names import BIG, BIG_QUICK, STATE_100MB, STATE_300KB
from benchmarks.processes import Stage
from benchmarks.results import Bar, Result, median, paired, percentile

_P50 = 1.25
"""Times a bare echo."""


async def introduce(stage: Stage, scale: Scale) -> Result:
    return await _call(stage, scale, "introduce", "introduce", "echo")


async def not_modified(stage: Stage, scale: Scale) -> Result:
    return await _call(stage, scale, "not-modified", "not-modified", "echo-stream")


async def _call(stage: Stage, scale: Scale, name: str, lane: str, like: str) -> Result:
    """Beside a bare unary echo; `like`: the bare call of the same shape, to which `ratio_to_aio` is, and whose own time
    in echoes is what gRPC leaves to be reached."""
    pair = await stage.pair()
    lanes = lanes_of(pair, STATE_300KB, 0, lane, "echo", like)
    took = await in_turn(lanes, scale.times(1000, 150), warm=20)
    ours = took[lane]
    echo = median(took["echo"])
    longer = median(ours) / echo
    return Result(
        name=name, seconds=median(ours), n=len(ours), ratio_to_aio=paired(took[like], ours),
        figures={**_latency(ours), "per_second": 1 / median(ours), "echo_p50_ms": 1e3 * echo}
        | ({"bare_stream_times_echo": median(took[like]) / echo} if like != "echo" else {}),
        bars=(Bar("p50, times that of a bare unary echo", longer, _P50, "at most"),),
    )  # fmt: skip


def _latency(took: Sequence[float]) -> dict[str, float | str]:
    return {"p50_ms": 1e3 * median(took), "p99_ms": 1e3 * percentile(took, 99)}


async def watch_notice(stage: Stage, scale: Scale) -> Result:
    """From the provider's writing to the consumer's reading, on one machine's monotonic clock."""
    consumer, count = (await stage.pair()).consumer, scale.times(400, 100)
    ours: list[float] = []
    bare: list[float] = []
    for _ in range(3):
        ours += await consumer.do("notices", count=count)
        bare += await consumer.do("notices", count=count, bare=True)
    ratio = median(ours) / median(bare)
    return Result(
        name="watch-notice", seconds=median(ours), n=len(ours), ratio_to_aio=1 / ratio,
        figures=_latency(ours) | {"bare_p50_ms": 1e3 * median(bare)},
        bars=(Bar("p50, times that of a bare stream's message", ratio, _P50, "at most"),),
    )  # fmt: skip


async def beat_under_bulk(stage: Stage, scale: Scale) -> Result:
    """Notices on the very connection over which 100 MB move again and again."""
    pair = await stage.pair()
    await pair.hold(STATE_100MB, raw=False)
    late = await pair.consumer.do("notices", count=scale.times(1000, 300), beside=STATE_100MB)
    latency = _latency(late)
    return Result(
        name="beat-under-bulk", seconds=median(late), n=len(late), figures=latency,
        bars=(Bar("p99, ms", 1e3 * percentile(late, 99), 10, "at most"),),
    )  # fmt: skip


async def small_beside_bulk(stage: Stage, scale: Scale) -> Result:
    """A small answer to one consumer while another takes a big one: what the slowest of them waits longer."""
    pair, big = await stage.pair(), BIG_QUICK if scale.quick else BIG
    for payload in (STATE_300KB, big):
        await pair.hold(payload, raw=False)
    times = scale.times(100, 20)
    alone = await pair.consumer.do("small_beside", small=STATE_300KB, big="", times=times)
    beside = await pair.consumer.do("small_beside", small=STATE_300KB, big=big, times=times)
    await pair.provider.do("drop", payload=big)
    longer = 1e3 * (max(beside) - median(alone))
    return Result(
        name="small-beside-bulk", seconds=median(beside), n=times,
        figures={**_latency(beside), "alone_p50_ms": 1e3 * median(alone), "slowest_ms": 1e3 * max(beside)},
        bars=(Bar("delay of the slowest of them, ms", longer, 100, "at most"),),
    )  # fmt: skip


async def cold(stage: Stage, scale: Scale) -> Result:
    return await _cold(stage, scale, "cold-connection", "cold", "bare-cold")


async def cold_tls(stage: Stage, scale: Scale) -> Result:
    return await _cold(stage, scale, "cold-connection-tls", "cold-tls", "bare-cold-tls")


async def _cold(stage: Stage, scale: Scale, name: str, lane: str, bare: str) -> Result:
    """A new transport, its connection, and 300 kB; beside a bare channel and one echo."""
    pair = await stage.pair()
    await pair.hold(STATE_300KB)
    took = await in_turn(lanes_of(pair, STATE_300KB, 0, lane, bare), scale.times(30, 8))
    ratio = paired(took[bare], took[lane])
    return Result(
        name=name, seconds=median(took[lane]), n=len(took[lane]), ratio_to_aio=ratio,
        figures={"bare_ms": 1e3 * median(took[bare])},
    )  # fmt: skip
