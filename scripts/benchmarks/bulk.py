"""Bulk: states, feature maps, big tensors; beside raw TCP, the bare gRPC lane, TLS sockets and generated messages."""

from collections.abc import Sequence

from benchmarks.measuring import Extra, Measure, Scale, extra_memory, in_turn, lanes_of
from benchmarks.names import BIG, BIG_QUICK, FEATURES, SPARSE_100MB, STATE_100MB, STATE_300KB
from benchmarks.processes import Stage, side
from benchmarks.results import MB, Bar, Result, median, paired

_CHUNK_MB = (1 << 20) / MB
_CONSUMER_MB, _LOW_MEMORY_MB = 40.0, 12.0


def exchange(
    name: str,
    payload: str,
    *,
    lane: str = "fabric",
    quick_payload: str = "",
    repeats: tuple[int, int] = (15, 5),
    tuned: bool = True,
    of_tcp: Sequence[float] = (),
    of_aio: float | None = None,
    memory: bool = False,
    consumer_mb: float = _CONSUMER_MB,
) -> Measure:
    """A figure of one of our own lanes beside raw TCP and the bare lane.

    `of_tcp`, `of_aio`: bars for the two ratios. `memory`: measured too, with bars: two chunks at the provider,
    `consumer_mb` at the consumer. `tuned`: with our own commands' allocator; else with the host's, untouched.
    """

    async def measure(stage: Stage, scale: Scale) -> Result:
        moved = quick_payload if scale.quick and quick_payload else payload
        pair = await stage.pair(tuned=tuned)
        nbytes = await pair.hold(moved)
        took = await in_turn(lanes_of(pair, moved, nbytes, "tcp", "bare", lane), scale.times(*repeats))
        await pair.provider.do("drop", payload=moved)
        to_tcp, to_aio = paired(took["tcp"], took[lane]), paired(took["bare"], took[lane])
        bars = [Bar("ratio to raw TCP", to_tcp, bound) for bound in of_tcp]
        if of_aio is not None:
            bars.append(Bar("ratio to the bare lane", to_aio, of_aio))
        extra = Extra(None, None)
        if memory:
            extra = await extra_memory(stage.group, moved, lane, scale.times(5, 2), tuned=tuned)
            bars += _memory_bars(extra, consumer_mb)
        return Result(
            name=name, seconds=median(took[lane]), n=len(took[lane]), ratio_to_tcp=to_tcp, ratio_to_aio=to_aio,
            extra_rss_mb_provider=extra.provider, extra_rss_mb_consumer=extra.consumer, bars=tuple(bars),
            figures=_speed(nbytes, took[lane], moved if moved != payload else ""),
        )  # fmt: skip

    return measure


def _memory_bars(extra: Extra, consumer_mb: float) -> list[Bar]:
    if extra.provider is None or extra.consumer is None:
        return []
    return [
        Bar("extra MB at the provider", extra.provider, 2 * _CHUNK_MB, "at most"),
        Bar("extra MB at the consumer", extra.consumer, consumer_mb, "at most"),
    ]


def _speed(nbytes: int, took: Sequence[float], instead: str) -> dict[str, float | str]:
    speed: dict[str, float | str] = {"gb_per_s": nbytes / median(took) / 1e9}
    return speed | {"payload": instead} if instead else speed


async def cast(stage: Stage, scale: Scale, name: str, lane: str, payload: str) -> Result:
    """Fewer bytes than the lossless state. The ratios are to the limits that move all of that."""
    pair = await stage.pair()
    whole = await pair.hold(STATE_100MB)
    await pair.hold(payload)
    lanes = lanes_of(pair, STATE_100MB, whole, "tcp", "bare") | lanes_of(pair, payload, whole, lane)
    took = await in_turn(lanes, scale.times(9, 3))
    return Result(
        name=name, seconds=median(took[lane]), n=len(took[lane]), ratio_to_tcp=paired(took["tcp"], took[lane]),
        ratio_to_aio=paired(took["bare"], took[lane]),
    )  # fmt: skip


async def bf16(stage: Stage, scale: Scale) -> Result:
    return await cast(stage, scale, "state-100mb-bf16", "fabric-bf16", STATE_100MB)


async def int8(stage: Stage, scale: Scale) -> Result:
    return await cast(stage, scale, "state-100mb-int8", "fabric-int8", STATE_100MB)


async def sparse(stage: Stage, scale: Scale) -> Result:
    return await cast(stage, scale, "state-100mb-sparse", "fabric", SPARSE_100MB)


async def tls(stage: Stage, scale: Scale) -> Result:
    """Mutual TLS 1.3 with a group's certificates, beside Python's blocking ssl socket with the same ones."""
    pair = await stage.pair()
    nbytes = await pair.hold(STATE_100MB)
    lanes = lanes_of(pair, STATE_100MB, nbytes, "tcp", "ssl", "bare-tls", "fabric-tls")
    took = await in_turn(lanes, scale.times(15, 4))
    ours = took["fabric-tls"]
    to_tcp, to_ssl = paired(took["tcp"], ours), paired(took["ssl"], ours)
    extra = await extra_memory(stage.group, STATE_100MB, "fabric-tls", scale.times(5, 2))
    bars = (Bar("ratio to a blocking ssl socket", to_ssl, 0.9), Bar("ratio to raw TCP", to_tcp, 0.25))
    return Result(
        name="state-100mb-tls", seconds=median(ours), n=len(ours), ratio_to_tcp=to_tcp,
        ratio_to_aio=paired(took["bare-tls"], ours), extra_rss_mb_provider=extra.provider,
        extra_rss_mb_consumer=extra.consumer, bars=bars,
        figures=_speed(nbytes, ours, "") | {"ratio_to_ssl": to_ssl},
    )  # fmt: skip


def rival(name: str, lane: str, least: float, repeats: tuple[int, int]) -> Measure:
    """Generated protobuf messages over gRPC's own settings, in two processes that hold nothing but such a program does,
    beside our own commands. Also in processes whose allocator large blocks have made adapt: `adapted`."""

    async def measure(stage: Stage, scale: Scale) -> Result:
        ours, adapted = await stage.pair(), await stage.pair(tuned=False)
        nbytes = await ours.hold(STATE_100MB)
        await adapted.hold(STATE_100MB)
        async with side(tuned=False) as provider, side(tuned=False) as consumer:
            port = await provider.do("serve_as_anybody", nbytes=nbytes)

            async def theirs() -> float:
                return float(await consumer.do("ask_as_anybody", port=port, nbytes=nbytes, lane=lane))

            lanes = lanes_of(ours, STATE_100MB, nbytes, "tcp", "fabric") | {"theirs": theirs}
            took = await in_turn(lanes | lanes_of(adapted, STATE_100MB, nbytes, lane), scale.times(*repeats))
        ahead = paired(took["theirs"], took["fabric"])
        return Result(
            name=name, seconds=median(took["theirs"]), n=len(took["theirs"]),
            ratio_to_tcp=paired(took["tcp"], took["theirs"]),
            figures={
                "ours_s": median(took["fabric"]), "times_as_long": ahead, "adapted_s": median(took[lane]),
                "adapted_times_as_long": paired(took[lane], took["fabric"]),
            },
            bars=(Bar("takes as many times our own time", ahead, least),),
        )  # fmt: skip

    return measure


async def coding(stage: Stage, scale: Scale) -> Result:
    """Tensors to header and memoryviews and back, beside torch.save and torch.load."""
    async with side() as one:
        took = await one.do("coding", payload=STATE_100MB, times=scale.times(15, 5))
    share = 1 / paired(took["torch"], took["ours"])
    return Result(
        name="encode-manifest", seconds=median(took["ours"]), n=len(took["ours"]),
        figures={"of_torch": share, "with_frames_s": median(took["framed"]), "torch_s": median(took["torch"])},
        bars=(Bar("part of torch.save + torch.load", share, 0.1, "at most"),),
    )  # fmt: skip


plain = exchange(
    "state-100mb-plain", STATE_100MB, of_tcp=(0.5,), of_aio=0.9, memory=True,
)  # fmt: skip
embedded = exchange("state-100mb-embedded", STATE_100MB, tuned=False, of_tcp=(0.3, 0.45), memory=True)
low_memory = exchange(
    "state-100mb-low-memory", STATE_100MB, lane="fabric-low", memory=True, consumer_mb=_LOW_MEMORY_MB, repeats=(7, 2),
)  # fmt: skip
one_gb = exchange(
    "tensor-1gb-plain", BIG, quick_payload=BIG_QUICK, of_tcp=(0.5,), of_aio=0.9, memory=True, repeats=(7, 3)
)
into_model = exchange("state-100mb-live", STATE_100MB, lane="into-model", of_tcp=(0.25,))
small_state = exchange("state-300kb-warm", STATE_300KB, repeats=(200, 60))
features = exchange("features-17mb", FEATURES, repeats=(30, 10))
chunked = rival("chunked-protobuf", "chunked", 2.5, (15, 4))
unary = rival("unary-protobuf", "unary", 3.0, (9, 3))
