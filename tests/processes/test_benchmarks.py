"""The benchmark measures what it says: figures, ratios and bars, lanes that move every byte, sides that end."""

import asyncio
import ctypes
import json
import mmap
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import concurrent, endurance, in_process, markdown, memory, naive_grpc, profile, raw, raw_grpc, suite
from benchmarks.__main__ import main
from benchmarks.consumer import Consumer
from benchmarks.measuring import Lane, Scale, in_turn
from benchmarks.names import FEATURES, SPARSE_100MB, STATE_100MB, STATE_300KB, TINY
from benchmarks.payloads import live, make
from benchmarks.processes import SideFailed, Unable, environment, side
from benchmarks.provider import Provider, encoded
from benchmarks.results import Bar, Result, brief, combined, median, paired, percentile

from peerlearn.errors import ConfigError
from peerlearn.knowledge import Knowledge, NotModified, Outputs, Params, Sparse
from peerlearn.security.group import Group
from peerlearn.security.passport import Passport

# ---------------------------------------------------------------- figures


def test_a_ratio_is_the_median_of_pairs_and_not_the_ratio_of_medians():
    assert paired([1.0, 10.0, 4.0], [2.0, 10.0, 16.0]) == 0.5
    assert median([1.0, 10.0, 4.0]) / median([2.0, 10.0, 16.0]) == 0.4


@pytest.mark.parametrize(("percent", "value"), [(1, 1), (50, 5), (90, 9), (99, 10), (100, 10)])
def test_a_percentile_is_one_of_the_values(percent, value):
    assert percentile([10, 3, 1, 2, 9, 8, 7, 6, 5, 4], percent) == value


def test_a_bar_says_whether_it_is_reached():
    assert str(Bar("ratio", 0.5, 0.5)) == "reached: ratio 0.5 (>= 0.5)"
    assert str(Bar("ratio", 0.499, 0.5)) == "not reached: ratio 0.499 (>= 0.5)"
    assert str(Bar("ms", 10.1, 10, "at most")) == "not reached: ms 10.1 (<= 10)"
    assert brief(123456.0) == "1.23e+05"


def test_several_runs_make_a_row_of_medians_with_their_spread():
    def run(seconds: float, ratio: float, extra: float | None) -> Result:
        bars = (Bar("ratio to raw TCP", ratio, 0.5), Bar("MB", 40 * ratio, 20, "at most"))
        return Result(
            name="state", seconds=seconds, n=5, ratio_to_tcp=ratio, extra_rss_mb_consumer=extra, bars=bars,
            figures={"gb_per_s": 1 / seconds, "payload": "floats"},
        )  # fmt: skip

    runs = [run(4.0, 0.4, 8.0), run(1.0, 0.7, None), run(2.0, 0.6, 10.0)]
    row = combined([*runs[:2], Result(name="state", skipped="no tc here"), runs[2]])
    assert (row.seconds, row.n, row.ratio_to_tcp, row.ratio_to_aio) == (2.0, 15, 0.6, None)
    assert (row.extra_rss_mb_consumer, row.figures) == (9.0, {"gb_per_s": 0.5, "payload": "floats"})
    assert [str(bar) for bar in row.bars] == [
        "reached: ratio to raw TCP 0.6, 0.4 to 0.7 (>= 0.5)", "not reached: MB 24, 16 to 28 (<= 20)"
    ]  # fmt: skip
    assert row.as_json()["bars"][0]["runs"] == [0.4, 0.7, 0.6]
    assert combined(runs[:1]) is runs[0], "one run is what it is"
    skipped = Result(name="state", skipped="no tc here")
    assert combined([skipped, skipped]) == skipped


async def test_lanes_take_turns_to_begin_and_the_warm_rounds_do_not_count():
    order = []

    def lane(name: str) -> Lane:
        async def run() -> float:
            order.append(name)
            return float(len(order))

        return run

    took = await in_turn({"a": lane("a"), "b": lane("b")}, 2, warm=1)
    assert "".join(order) == "baabba"
    assert took == {"a": [3.0, 6.0], "b": [4.0, 5.0]}


def test_every_figure_of_the_issue_has_a_name():
    names = {figure.name for figure in suite.FIGURES}
    assert names >= {
        "state-100mb-plain", "state-100mb-tls", "tensor-1gb-plain", "state-300kb-warm", "not-modified", "features-17mb"
    }  # fmt: skip
    assert {figure.group for figure in suite.FIGURES} == set(suite.GROUPS)
    assert len(names) == len(suite.FIGURES)


def test_figures_are_chosen_by_name_and_by_group_in_the_order_of_the_suite():
    assert [f.name for f in suite.chosen(["discovery", "introduce"])] == ["introduce", "discovery"]
    assert {f.group for f in suite.chosen(["lasting"])} == {"lasting"}
    assert suite.chosen([]) == list(suite.FIGURES)


# ---------------------------------------------------------------- payloads


def dense(knowledge: Knowledge, name: str) -> torch.Tensor:
    tensor = knowledge.tensors[name]
    assert isinstance(tensor, torch.Tensor)
    return tensor


def test_a_resnet50_has_320_tensors_and_its_102_megabytes():
    state = make(STATE_100MB)
    assert isinstance(state, Params)
    assert len(state.tensors) == 320
    counted = {name: tensor for name, tensor in state.tensors.items() if "running" not in name and "num_" not in name}
    assert sum(tensor.numel() for tensor in counted.values() if isinstance(tensor, torch.Tensor)) == 25_557_032
    assert state.nbytes == 102_441_032


def test_payloads_have_the_sizes_that_they_are_named_for():
    assert 290_000 < make(STATE_300KB).nbytes < 330_000
    assert make(TINY).nbytes == 4 * (64 * 32 + 32 + 32 * 10 + 10)
    assert make("floats-3mb").nbytes == 3_000_000
    maps = make(FEATURES)
    assert isinstance(maps, Outputs)
    assert maps.tensors["feature"].shape == (256, 16, 32, 32)
    assert bool((maps.tensors["feature"] >= 0).all())


def test_sparse_payloads_are_sparse():
    kept = make("zeros99-4mb").tensors["w"]
    assert isinstance(kept, torch.Tensor)
    assert 0.005 < float((kept != 0).float().mean()) < 0.02
    assert 0.005 < float((kept.view(torch.int32) != 0).float().mean()) < 0.02  # and no negative zeros
    assert all(isinstance(tensor, Sparse) for tensor in make(SPARSE_100MB).tensors.values())


def test_live_tensors_fit_the_knowledge_that_is_copied_into_them():
    state = make(STATE_300KB)
    for name, tensor in live(state).items():
        tensor.copy_(dense(state, name))
        assert torch.equal(tensor, dense(state, name))


def test_an_unknown_payload_is_refused():
    with pytest.raises(ConfigError, match="there is no payload 'gold-3mb'"):
        make("gold-3mb")


# ---------------------------------------------------------------- lanes


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("bench") / "group"
    Group.new("bench").save(path)
    return str(path)


@pytest.fixture
async def consumer(group: str) -> AsyncIterator[Consumer]:
    """With a provider in this process."""
    provider = Provider()
    ports = await provider.open("127.0.0.1", group)
    made = Consumer(ports, "127.0.0.1", group)
    try:
        yield made
    finally:
        await made.close()
        await provider.close()


@pytest.mark.parametrize("lane", ["bare", "bare-tls", "chunked", "unary"])
async def test_a_lane_of_grpc_brings_every_byte_into_its_place(consumer: Consumer, lane: str):
    body = encoded(make(STATE_300KB)).body
    whole = b"".join(body)
    consumer.place(len(whole))[:] = bytes(len(whole))
    assert await consumer.lane(lane, STATE_300KB, len(whole)) > 0
    assert bytes(consumer.place(len(whole))) == whole


@pytest.mark.parametrize("tls", [False, True])
async def test_a_raw_line_brings_every_byte_as_often_as_it_is_asked(group: str, tls: bool):
    body = np.random.default_rng(0).integers(0, 256, 3_000_001, np.uint8)
    passport = Passport(Group.load(Path(group)))
    server = raw.context(passport, server=True) if tls else None
    client = raw.context(passport, server=False) if tls else None
    with raw.serving({"x": body.data}.__getitem__, server) as port:
        line = await asyncio.to_thread(raw.RawLine, port, client, passport.server_name)
        for _ in range(2):
            place = raw.touched(len(body))
            assert await asyncio.to_thread(line.take, "x", place) > 0
            assert bytes(place) == body.tobytes()
        line.close()


async def test_the_ssl_lane_takes_no_stranger(group: str):
    server = raw.context(Passport(Group.load(Path(group))), server=True)
    stranger = raw.context(Passport(Group.new("other")), server=False)
    nothing: dict[str, memoryview] = {}
    with raw.serving(nothing.__getitem__, server) as port, pytest.raises(ssl.SSLError):
        await asyncio.to_thread(raw.RawLine, port, stranger, "peer")


async def test_ours_brings_the_very_tensors_by_every_way(consumer: Consumer):
    state = make(STATE_300KB)
    for kind in ("plain", "tls", "low"):
        answer = await consumer.ask(consumer.transport(kind), kind, STATE_300KB)
        assert isinstance(answer, Params)
        assert all(torch.equal(dense(answer, name), dense(state, name)) for name in state.tensors)
    assert await consumer.ask(consumer.transport(), "plain", STATE_300KB, have=True) == NotModified(1)


@pytest.mark.parametrize(
    "lane", ["fabric-bf16", "fabric-int8", "into-model", "cold", "cold-tls", "not-modified", "introduce", "echo",
             "echo-stream", "bare-cold", "bare-cold-tls", "memcpy", "bare-fresh"],
)  # fmt: skip
async def test_every_other_lane_takes_some_time(consumer: Consumer, lane: str):
    nbytes = encoded(make(STATE_300KB)).header.body_bytes
    assert await consumer.lane(lane, STATE_300KB, nbytes) > 0


@pytest.mark.parametrize("lane", ["chunked", "unary"])
async def test_the_program_that_anybody_would_write_moves_every_byte(lane: str):
    async with naive_grpc.serving(3_000_001) as port:
        asker = naive_grpc.Asker(port, 3_000_001)
        try:
            asker._place[:] = bytes(3_000_001)
            assert await asker.lane(lane) > 0
            assert bytes(asker._place) == b"\7" * 3_000_001
        finally:
            await asker.close()


def test_the_program_that_anybody_would_write_has_no_transport_of_ours_in_its_process():
    """Else the allocator of its process has been helped to adapt, and it is measured with our work done for it."""
    code = "import sys, benchmarks.naive_grpc; print([m for m in sys.modules if 'transport' in m or 'torch' in m])"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env=environment()
    )
    assert [name for name in json.loads(told.stdout.replace("'", '"')) if name.startswith(("peerlearn", "torch"))] == []


async def test_an_unknown_lane_is_refused(consumer: Consumer):
    with pytest.raises(ConfigError, match="there is no lane 'rope'"):
        await consumer.lane("rope", TINY, 0)


async def test_notices_carry_the_moment_of_their_writing(consumer: Consumer):
    for late in (
        await concurrent.notices(consumer, 5, bare=False, beside=""),
        await concurrent.notices(consumer, 5, bare=True, beside=""),
        await concurrent.notices(consumer, 5, bare=False, beside="floats-4mb"),
    ):
        assert len(late) == 5
        assert all(0 < seconds < 10 for seconds in late)


@pytest.mark.parametrize("lane", ["fabric", "tcp"])
async def test_several_consumers_take_it_at_once(consumer: Consumer, lane: str):
    assert len([took for took in await concurrent.at_once(consumer, "floats-1mb", 1_000_000, 3, lane) if took > 0]) == 3


async def test_small_ones_go_on_beside_a_big_one(consumer: Consumer):
    assert len(await concurrent.small_beside(consumer, TINY, "floats-8mb", 3)) == 3


async def test_half_of_the_broken_exchanges_meet_a_wire_that_is_cut(consumer: Consumer):
    left = await endurance.exchanges(consumer, "floats-4mb", 4, "broken")
    assert 2 <= left["failed"] <= 4
    assert await consumer.fabric(TINY) > 0  # and all goes on


async def test_whole_exchanges_leave_nothing_behind(consumer: Consumer):
    before = await endurance.exchanges(consumer, TINY, 3, "whole")
    after = await endurance.exchanges(consumer, TINY, 20, "whole")
    assert after["failed"] == 0
    assert after["descriptors"] <= before["descriptors"]
    assert after["tasks"] <= before["tasks"]


async def test_the_provider_of_a_link_serves_with_and_without_codec(group: str):
    provider = Provider()
    ports = await provider.open("127.0.0.1", group, link=True)
    consumer = Consumer(ports, "127.0.0.1", group)
    sent = {}
    try:
        for kind in ("plain", "none"):
            message, traffic = await consumer.exchange(consumer.transport(kind), kind, "zeros99-4mb")
            sent[kind] = traffic.received_bytes
            assert message.header.body_bytes == 4_000_000
    finally:
        await consumer.close()
        await provider.close()
    assert sent["plain"] < 1_000_000 < 4_000_000 <= sent["none"]


# ---------------------------------------------------------------- sides


async def test_a_side_does_what_it_is_told_and_says_why_it_cannot():
    async with side(tuned=False) as one:
        held = await one.do("mark")
        assert held["tasks"] == 1
        with pytest.raises(Unable, match="100000 peers in one process need"):
            await one.do("in_process", peers=100_000)
        assert (await one.do("held"))["threads"] >= 1


async def test_a_side_that_dies_is_told(capfd: pytest.CaptureFixture[str]):
    async with side() as one:
        with pytest.raises(SideFailed, match="the process that should fly ended"):
            await one.do("fly")
    assert "fly" in capfd.readouterr().err


@pytest.mark.skipif(not memory.known(), reason="this system does not tell its processes' memory")
async def test_the_peak_is_that_of_what_came_after_the_mark():
    memory.forget_peak()
    before = memory.held()
    with mmap.mmap(-1, 50_000_000) as pages:  # of the system, not of what the allocator has at hand, or would keep
        for _ in range(50):
            pages.write(bytes(1_000_000))
    after = memory.held()
    assert after["peak"] - before["resident"] > 40_000_000
    memory.forget_peak()
    assert memory.held()["peak"] - before["resident"] < 30_000_000


async def test_peers_of_one_process_meet():
    mesh = await in_process.mesh(3)
    assert mesh["seconds"] > 0
    assert mesh["descriptors"] > 0


def test_too_few_descriptors_are_said_before_anything_is_opened():
    program = (
        "import resource, asyncio; from benchmarks import in_process;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)); asyncio.run(in_process.mesh(50))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment()
    )
    assert "50 peers in one process need 5156 file descriptors, allowed are 256" in done.stderr


async def test_the_parts_of_an_exchange_are_measured_one_by_one():
    parts = await profile.parts(STATE_300KB, 1)
    assert tuple(parts) == profile.PARTS
    assert all(milliseconds > 0 for milliseconds in parts.values())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts page faults as Linux does")
def test_an_allocator_that_has_adapted_keeps_the_pages_of_freed_frames():
    if not is_glibc():
        pytest.skip("the allocator is not glibc's")
    kept, given_back = faults("let_allocator_adapt(8 << 20)"), faults("")
    assert given_back > 10_000
    assert kept < given_back / 10


def faults(first: str) -> int:
    """Page faults of a program that fills and frees six frames at once, fifty times."""
    program = f"""
import resource
from peerlearn.tuning.malloc import let_allocator_adapt
{first}
def churn():
    for _ in range(50):
        frames = [bytearray(b"x") * (1 << 20) for _ in range(6)]
        del frames
churn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
churn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    untouched = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    return int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=untouched).stdout)


def is_glibc() -> bool:
    return hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


# ---------------------------------------------------------------- what is shown

RESULTS = [
    Result(
        name="state-100mb-plain", seconds=0.05, n=9, ratio_to_tcp=0.61, ratio_to_aio=0.93, extra_rss_mb_provider=0.4,
        extra_rss_mb_consumer=30.0, bars=(Bar("ratio to raw TCP", 0.61, 0.5),), figures={"gb_per_s": 2.0},
    ),
    Result(name="discovery", skipped="no multicast here"),
]  # fmt: skip


def test_tables_hold_each_result_once_and_the_reason_of_a_skip():
    text = markdown.page({"cores": 2, "cpu": "x", "memory_gb": 4, "system": "L", "python": "3", "versions": {},
                          "load_before": 0.1}, RESULTS, {"encode": 1.25}, quick=True)  # fmt: skip
    assert "| state-100mb-plain | 50 ms | 0.61 | 0.93 | 0.4, 30.0 | 9 |" in text
    assert "reached: ratio to raw TCP 0.61 (>= 0.5)" in text
    assert "| discovery | skipped |" in text
    assert "no multicast here" in text
    assert "| encode | 1.2 |" in text
    assert text.count("state-100mb-plain") == 1


def test_tables_replace_those_that_a_document_had_and_leave_its_prose():
    once = markdown.placed("# Title\n\nProse.\n", "one")
    begin, end = markdown.marks(markdown.BENCH)
    assert once == f"# Title\n\nProse.\n\n{begin}\none\n{end}\n"
    twice = markdown.placed(once + "More.\n", "two")
    assert twice == f"# Title\n\nProse.\n\n{begin}\ntwo\n{end}\nMore.\n"
    beside = markdown.placed(twice, "three", markdown.RIVALS)
    assert beside.startswith(twice), "each has a place of its own"
    assert markdown.placed(beside, "three", markdown.RIVALS) == beside


def test_bench_prints_one_object_and_writes_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page = tmp_path / "page.md"
    assert main(["--quick", "--only", "discovery", "--json", "--markdown", str(page)]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    (result,) = told["results"]
    assert result["name"] == "discovery"
    assert result["skipped"] or result["seconds"] > 0
    assert set(result) >= {"ratio_to_tcp", "ratio_to_aio", "extra_rss_mb_provider", "extra_rss_mb_consumer", "n"}
    assert told["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert "discovery" in page.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [figure.name for figure in suite.FIGURES if figure.name not in ("averaging-8", "fifty-peers")]
)
def test_every_figure_can_be_taken(name: str, capsys: pytest.CaptureFixture[str]):
    assert main(["--quick", "--only", name, "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert result["name"] == name
    assert result["skipped"] or result["n"] > 0


def test_bench_names_its_figures(capsys: pytest.CaptureFixture[str]):
    assert main(["--list", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [figure["name"] for figure in told["figures"]] == [figure.name for figure in suite.FIGURES]


def test_a_figure_that_there_is_not_is_one_sentence(capsys: pytest.CaptureFixture[str]):
    assert main(["--only", "state-100mb-plan"]) == 2
    assert capsys.readouterr().err == (
        "peerlearn: there is no figure 'state-100mb-plan' to measure; did you mean 'state-100mb-plain'?\n"
    )


async def test_a_figure_that_cannot_be_taken_is_a_result_with_the_reason(monkeypatch: pytest.MonkeyPatch):
    async def unable(stage, scale):
        raise Unable("not here")

    seen: list[Result] = []
    figure = suite.Figure("x", "bulk", "about", unable)
    results = await suite.run([figure], Scale(), begun=lambda figure: None, done=seen.append)
    assert results == seen == [Result(name="x", skipped="not here")]


async def test_a_bare_stream_that_ends_early_is_noticed():
    async with raw_grpc.serving({"": memoryview(b"abc")}.__getitem__) as ports:
        line = raw_grpc.BareLine(ports)
        with pytest.raises(ConnectionError, match="3 of 5 bytes came"):
            await line.blocks("", memoryview(bytearray(5)))
        await line.close()
