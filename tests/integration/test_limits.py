"""Every bound of `Limits` holds, by a small value of its own, and on what is declared: before anything is allocated."""

import asyncio
import re
import tracemalloc
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from peerlearn.config import Limits
from peerlearn.errors import Oversized
from peerlearn.security.revocation import check_size
from peerlearn.testing.messages import EndlessWatch
from peerlearn.transport.grpc.transport import GrpcTransport
from peerlearn.wire.cards import parse_card
from peerlearn.wire.frames import Assembler, Block, check_header, parse, serialize
from peerlearn.wire.seal import sealed
from peerlearn.wire.select import load_select
from peerlearn.wire.v1 import fabric_pb2 as pb
from tests.support.cards import plain
from tests.support.headers import floats, header


def begun(block: int, limits: Limits) -> None:
    assembler = Assembler(limits)
    assembler.feed(pb.Frame(header=header(floats("w", 1000))))
    assembler.feed(Block((memoryview(bytes(block)),)))


def card(limits: Limits, **changes: Any) -> None:
    parse_card(plain(**changes).SerializeToString(), limits)


DECLARED: dict[str, tuple[int, Callable[[Limits], object], Callable[[Limits], object]]] = {
    # name: a small bound, what just fits, what is one too many
    "body_bytes": (400, lambda x: check_header(header(floats("w", 100)), x),
                   lambda x: check_header(header(floats("w", 101)), x)),
    "tensors": (2, lambda x: check_header(header(floats("a", 1), floats("b", 1)), x),
                lambda x: check_header(header(*(floats(n, 1) for n in "abc")), x)),
    "dims": (1, lambda x: check_header(header(floats("w", 1)), x),
             lambda x: check_header(header(pb.TensorHeader(name="w", dtype="float32", shape=[1, 1], stored=1)), x)),
    "name_chars": (64, lambda x: check_header(header(floats("w" * 64, 1)), x),
                   lambda x: check_header(header(floats("w" * 65, 1)), x)),
    "header_bytes": (200, lambda x: parse(serialize(pb.Frame(header=pb.Header(sender="x" * 100))), x),
                     lambda x: parse(serialize(pb.Frame(header=pb.Header(sender="x" * 300))), x)),
    "block_bytes": (400, lambda x: begun(400, x), lambda x: begun(404, x)),
    "select_bytes": (9, lambda x: load_select(b'{"a": 12}', x), lambda x: load_select(b'{"a": 123}', x)),
    "select_depth": (2, lambda x: load_select(b'{"a":["[[["]}', x), lambda x: load_select(b'{"a":[[1]]}', x)),
    "card_bytes": (400, lambda x: card(x), lambda x: card(x, task="x" * 200, software="y" * 200)),
    "classes": (10, lambda x: card(x, classes=10, histogram=[1] * 10),
                lambda x: card(x, classes=11, histogram=[1] * 11)),
    "layers": (1, lambda x: card(x, layers=[pb.Layer(name="a")]),
               lambda x: card(x, layers=[pb.Layer(name="a"), pb.Layer(name="b")])),
    "addresses": (1, lambda x: card(x, addresses=[pb.Address(host="10.0.0.1", port=1)]),
                  lambda x: card(x, addresses=[pb.Address(host="10.0.0.1", port=n) for n in (1, 2)])),
    "revocation_bytes": (10, lambda x: check_size(pb.SignedRevocations(list=b"x" * 10, signature=b"y"), x),
                         lambda x: check_size(pb.SignedRevocations(list=b"x" * 11, signature=b"y"), x)),
}  # fmt: skip

SMALL_CALLS = "../peerlearn/testing/conformance/transports.py"
EXCHANGES = "../peerlearn/testing/conformance/exchanging.py"
ELSEWHERE = {
    "held_bytes": ("integration/test_tls.py", "test_what_questions_bring_together_is_bounded"),
    "reuse_bytes": ("unit/wire/test_reuse.py", "test_what_a_provider_keeps_for_deltas_is_bounded"),
    "resumable_bytes": (
        "integration/test_resumable_answers.py",
        "test_what_a_provider_keeps_is_bounded_in_number_size_and_time",
    ),
    "look_ahead_bytes": (
        "integration/test_fair_queue.py",
        "test_a_slow_consumer_costs_its_provider_a_few_blocks_of_memory",
    ),
    "acquaintances": (SMALL_CALLS, "an_introduction_beyond_the_limits_is_refused("),
    "peers": ("unit/directory/test_directory.py", "directory(peers=2"),
    "exchanges": (EXCHANGES, "one_exchange_too_many_is_refused_as_busy("),
    "exchanges_per_peer": ("integration/test_fair_queue.py", "exchanges_per_peer="),
    "in_flight_bytes": ("integration/test_fair_queue.py", "test_no_more_is_in_flight_than_the_limit"),
    "watches": (SMALL_CALLS, "a_watcher_that_leaves_ends_the_watch_at_both_sides("),
    "calls": ("integration/test_tls.py", "test_one_caller_cannot_keep_a_peer_busy"),
    "streams": ("integration/test_limits.py", "test_more_calls_than_streams_on_one_connection_wait_for_their_turn"),
}
"""What takes more than one message to break: the file and the test that shows it."""


def test_no_bound_is_without_a_test() -> None:
    assert {each.name for each in fields(Limits)} == DECLARED.keys() | ELSEWHERE.keys()
    assert not DECLARED.keys() & ELSEWHERE.keys()
    for name, (file, where) in ELSEWHERE.items():
        assert re.search(re.escape(where), (Path(__file__).parents[1] / file).read_text()), f"{name}: {where} is gone"


@pytest.mark.parametrize("name", DECLARED)
def test_what_just_fits_is_taken_and_one_more_is_refused_before_anything_is_allocated(name: str) -> None:
    most, fits, too_much = DECLARED[name]
    limits = Limits(**{name: most})
    fits(limits)
    fits(Limits())
    too_much(Limits())
    tracemalloc.start()
    try:
        with pytest.raises(Oversized, match=r"at most|nested more than"):
            too_much(limits)
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()


async def test_more_calls_than_streams_on_one_connection_wait_for_their_turn() -> None:
    """As gRPC sees to it: the third watch is heard of when one of two others has ended."""
    async with (
        GrpcTransport(limits=Limits(streams=2)).serving(EndlessWatch()) as at,
        grpc.aio.insecure_channel(str(at), options=[("grpc.use_local_subchannel_pool", 1)]) as channel,
    ):
        watch: Any = channel.unary_stream("/peerlearn.wire.v1.Fabric/Watch")
        request = sealed(pb.WatchRequest().SerializeToString())
        first, second = watch(request), watch(request)
        assert await first.read()
        assert await second.read()
        third = watch(request)  # not before: which two of three get through at once is gRPC's choice
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(third.read())
            done, _ = await asyncio.wait([waiting], timeout=1.0)
            assert not done
            first.cancel()
            assert await asyncio.wait_for(waiting, 10)
        second.cancel()
        third.cancel()
