"""All figures, by name, in the order in which they are taken."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import bulk, lasting, links, many, small
from benchmarks.measuring import Measure, Scale
from benchmarks.processes import Stage, Unable, side
from benchmarks.results import Result, combined
from peerlearn.errors import ConfigError
from peerlearn.security.group import Group
from peerlearn.suggest import did_you_mean


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    group: str
    about: str
    measure: Measure


FIGURES = (
    Figure("state-100mb-plain", "bulk", "ResNet-50's state, own commands' allocator", bulk.plain),
    Figure("state-100mb-embedded", "bulk", "the same in a host whose allocator is left alone", bulk.embedded),
    Figure("state-100mb-low-memory", "bulk", "the same with Limits(look_ahead_bytes=65536)", bulk.low_memory),
    Figure("state-100mb-live", "bulk", "the same, into the tensors of a live model", bulk.into_model),
    Figure("state-100mb-tls", "bulk", "the same over mutual TLS 1.3", bulk.tls),
    Figure("state-100mb-bf16", "bulk", "the same, cast to bfloat16 on the way", bulk.bf16),
    Figure("state-100mb-int8", "bulk", "the same, cast to int8 on the way", bulk.int8),
    Figure("state-100mb-sparse", "bulk", "one value of a hundred of it", bulk.sparse),
    Figure("tensor-1gb-plain", "bulk", "one tensor of 1 GB (quick: 256 MB)", bulk.one_gb),
    Figure("features-17mb", "bulk", "a feature map [256, 16, 32, 32] and logits", bulk.features),
    Figure("state-300kb-warm", "bulk", "a small net's state over a connection in use", bulk.small_state),
    Figure("chunked-protobuf", "bulk", "rival: generated messages of 1 MiB, gRPC's settings", bulk.chunked),
    Figure("unary-protobuf", "bulk", "rival: one generated message, gRPC's settings", bulk.unary),
    Figure("encode-manifest", "bulk", "to messages and back, beside torch.save and load", bulk.coding),
    Figure("introduce", "small", "an introduction over a connection in use", small.introduce),
    Figure("not-modified", "small", "a question answered by: you have it", small.not_modified),
    Figure("watch-notice", "small", "a notice's way to who watches", small.watch_notice),
    Figure("beat-under-bulk", "small", "the same beside 100 MB on one connection", small.beat_under_bulk),
    Figure("small-beside-bulk", "small", "300 kB to one, 1 GB to another (quick: 256 MB)", small.small_beside_bulk),
    Figure("cold-connection", "small", "300 kB over a new connection", small.cold),
    Figure("cold-connection-tls", "small", "the same over mutual TLS 1.3", small.cold_tls),
    Figure("consumers-1", "many", "one consumer of one provider", many.consumers(1)),
    Figure("consumers-4", "many", "four at once", many.consumers(4)),
    Figure("consumers-16", "many", "sixteen at once", many.consumers(16)),
    Figure("averaging-2", "many", "a round of averaging a small MLP, two peers", many.averaging(2)),
    Figure("averaging-4", "many", "four peers", many.averaging(4)),
    Figure("averaging-8", "many", "eight peers", many.averaging(8)),
    Figure("fifty-peers", "many", "full mesh in one process, no models", many.fifty_peers),
    Figure("start-to-first-exchange", "many", "a program starts and asks once, without torch", many.start_to_first),
    Figure("discovery", "many", "mDNS: register to seen", many.discovery),
    Figure("soak-exchanges", "lasting", "10,000 exchanges (quick: 1,500)", lasting.soak),
    Figure("cancelled", "lasting", "2,000 cancelled or broken half-way (quick: 300)", lasting.cancelled),
    *(Figure(f"link-{rate.name}", "links", "codec rule beside no codec", links.link(rate)) for rate in links.RATES),
)  # fmt: skip
GROUPS = {
    "bulk": "Bulk", "small": "Small messages", "many": "Many peers", "lasting": "Lasting",
    "links": "Codecs on rate-limited links",
}  # fmt: skip


def chosen(only: Sequence[str]) -> list[Figure]:
    """Those named, or of the groups named, in the suite's order; all when none is. Raises ConfigError."""
    names = [figure.name for figure in FIGURES]
    for name in only:
        if name not in names and name not in GROUPS:
            near = did_you_mean(name, [*names, *GROUPS]) or "; scripts/bench --list shows all"
            raise ConfigError(f"there is no figure {name!r} to measure{near}")
    return [figure for figure in FIGURES if not only or figure.name in only or figure.group in only]


async def run(
    figures: Sequence[Figure],
    scale: Scale,
    *,
    runs: int = 1,
    begun: Callable[[Figure], None],
    done: Callable[[Result], None],
) -> list[Result]:
    """One after another; all of them `runs` times, so that what a machine does for a minute or two is not taken for its
    nature. What this machine cannot do is a result too: skipped, with the reason."""
    taken = [await _once(figures, scale, begun=begun, done=done) for _ in range(runs)]
    return [combined(each) for each in zip(*taken, strict=True)]


async def _once(
    figures: Sequence[Figure], scale: Scale, *, begun: Callable[[Figure], None], done: Callable[[Result], None]
) -> list[Result]:
    results = []
    with TemporaryDirectory(prefix="peerlearn-bench-") as folder:
        group = Path(folder, "group")
        Group.new("bench").save(group)
        async with Stage(str(group)) as stage:
            for figure in figures:
                begun(figure)
                try:
                    result = replace(await figure.measure(stage, scale), name=figure.name)
                except Unable as exc:
                    result = Result(name=figure.name, skipped=str(exc))
                results.append(result)
                done(result)
    return results


async def profile(scale: Scale, payload: str = "state-100mb") -> dict[str, float]:
    """Milliseconds of each part of one exchange, alone."""
    async with side() as one:
        parts: dict[str, float] = await one.do("profile", payload=payload, times=scale.times(9, 3))
    return parts
