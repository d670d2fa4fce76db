"""A bad network costs time and exchanges, and never a wrong byte; the same seed makes it bad in the same way again."""

import asyncio
import dataclasses
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerlearn.config import Limits, Timing, brisk
from peerlearn.errors import ConfigError, Corrupt, PeerRefused, PeerUnreachable, RefusalReason, WireError
from peerlearn.events import FetchFailed
from peerlearn.orchestrator.pace import Pace
from peerlearn.orchestrator.training.compute import Inline
from peerlearn.peer import Peer
from peerlearn.security.identity import Identity
from peerlearn.simulation.loop import VirtualLoop
from peerlearn.testing import PeerNetwork, blob_learner, gathered
from peerlearn.transport.base import Caller
from peerlearn.transport.exchange.dispatcher import read_introduction, read_notice
from peerlearn.transport.faults.grpc_relay import FaultyRelays
from peerlearn.transport.faults.model import LAG, NONE, FaultInjector, Faults
from peerlearn.transport.faults.queues import SimulatedLink
from peerlearn.transport.grpc.transport import GrpcTransport
from peerlearn.transport.memory.transport import MemoryNetwork
from peerlearn.types import PROTOCOL, Address
from peerlearn.wire.compress import LinkEstimate, Packer
from peerlearn.wire.frames import Assembler, Message, blocks, parse, serialize
from peerlearn.wire.seal import sealed
from peerlearn.wire.v1 import fabric_pb2 as pb

T = TypeVar("T")

PROTO = pb.Protocol(major=PROTOCOL[0], minor=PROTOCOL[1])
QUICK = Timing(base=2.0, stall=1.0)
HERE, THERE, ELSEWHERE = Address("here", 1), Address("there", 2), Address("elsewhere", 3)
ERRORS = (PeerUnreachable, PeerRefused, WireError)


def virtually(work: Coroutine[Any, Any, T]) -> T:
    """On a clock that jumps: what takes minutes there takes no time here, and nothing can hang unseen."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


def message(header: pb.Header, *sizes: int, seed: int = 0) -> Message:
    draw = np.random.default_rng(seed)
    body = tuple(draw.integers(0, 256, size, np.uint8) for size in sizes)
    header.knowledge.params.architecture = "a"
    for number, part in enumerate(body):
        header.tensors.add(name=f"t{number}", dtype="uint8", shape=[len(part)], stored=len(part))
    header.body_bytes = sum(sizes)
    return Message(header, tuple(part.data for part in body if len(part)))


def question(*sizes: int, seed: int = 0) -> Message:
    header = pb.Header(protocol=PROTO, sender="ada", query=pb.Query(want="params", select=b'{"layer": "penult"}'))
    return message(header, *sizes, seed=seed)


def answer(*sizes: int, seed: int = 0) -> Message:
    return message(pb.Header(protocol=PROTO, sender="bob"), *sizes, seed=seed)


def content(what: Message) -> tuple[object, ...]:
    """All that the two ends say to each other; not what their transports add for a next attempt."""
    header = what.header
    said = (header.sender, header.query.want, header.query.select, header.knowledge.SerializeToString())
    return (*said, [t.SerializeToString() for t in header.tensors], b"".join(what.body))


class Service:
    """Gives everybody the same answer; keeps what it was asked."""

    def __init__(self, gives: Message | None = None) -> None:
        self.gives = gives or answer(1000)
        self.asked: list[Message] = []

    async def introduce(self, introduction: pb.Introduction, caller: Caller) -> pb.Introduction:
        return pb.Introduction(protocol=PROTO, observed=caller.host)

    async def told(self, request: pb.WatchRequest, caller: Caller, notices: Any) -> None:
        raise AssertionError("nobody watches here who tells")

    async def watch(self, request: pb.WatchRequest, caller: Caller) -> Any:
        for count in range(100):
            yield pb.Notice(beat=pb.Beat(count=count))

    async def admit(self, header: pb.Header, caller: Caller) -> Caller:
        return caller

    async def answer(self, asked: Message, caller: Caller) -> Message:
        self.asked.append(asked)
        return self.gives


# ---------------------------------------------------------------- what is drawn


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"loss": 1.5}, "loss must be a share between 0 and 1, not 1.5"),
        ({"corruption": -0.1}, "corruption must be a share"),
        ({"reordering": float("nan")}, "reordering must be a share"),
        ({"delay": -1.0}, "delay must be seconds, 0 or more, not -1"),
        ({"jitter": float("inf")}, "jitter must be seconds"),
        ({"bandwidth": 0.0}, "bandwidth must be bytes per second, more than 0, not 0"),
    ],
)
def test_faults_that_cannot_be_are_refused_in_a_sentence(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Faults(**wrong)


STORM = Faults(delay=0.1, jitter=0.5, loss=0.3, duplication=0.3, reordering=0.3, corruption=0.3)


def fates(weather: FaultInjector, *, calls: int = 3, kind: str = "exchange") -> list[Any]:
    ways = [weather.way(HERE, THERE, kind) for _ in range(calls)]
    return [way.send(bytes(20), float(n)) for n in range(30) for way in ways]


def test_a_seed_decides_what_becomes_of_every_frame() -> None:
    assert fates(FaultInjector(STORM, 7)) == fates(FaultInjector(STORM, 7))
    assert fates(FaultInjector(STORM, 7)) != fates(FaultInjector(STORM, 8))


def test_calls_of_other_links_and_kinds_change_nothing() -> None:
    busy = FaultInjector(STORM, 7)
    for source, target, kind in ((ELSEWHERE, THERE, "exchange"), (HERE, THERE, "watch"), (THERE, HERE, "exchange")):
        busy.way(source, target, kind).send(bytes(20), 0.0)
    assert fates(busy) == fates(FaultInjector(STORM, 7))
    assert fates(FaultInjector(STORM, 7), kind="watch") != fates(FaultInjector(STORM, 7))


def test_a_fault_more_does_not_move_the_others() -> None:
    lossy = dataclasses.replace(STORM, duplication=0.0, corruption=0.0, reordering=0.0)
    one, two = fates(FaultInjector(STORM, 7)), fates(FaultInjector(lossy, 7))
    assert [bool(fate.copies) for fate in one] == [bool(fate.copies) for fate in two]


def test_every_fault_happens_about_as_often_as_it_is_wanted() -> None:
    found = fates(FaultInjector(STORM, 1), calls=100)
    arrived = [fate for fate in found if fate.copies]
    assert 0.25 < 1 - len(arrived) / len(found) < 0.35
    for share in (
        sum(len(fate.copies) == 2 for fate in arrived) / len(arrived),
        sum(fate.overtaken for fate in arrived) / len(arrived),
        sum(fate.copies[0] != bytes(20) for fate in arrived) / len(arrived),
    ):
        assert 0.25 < share < 0.35
    flips = [np.unpackbits(np.frombuffer(fate.copies[0], np.uint8)).sum() for fate in arrived]
    assert set(flips) == {0, 1}


# ---------------------------------------------------------------- lanes


async def through(faults: Faults, *frames: bytes, pause: float = 0.0) -> list[tuple[bytes, float]]:
    """What comes out of a lane, and when, when these are put in."""
    loop = asyncio.get_running_loop()
    lane = SimulatedLink(FaultInjector(faults, 3).way(HERE, THERE, "exchange"))
    came = []

    async def put() -> None:
        for frame in frames:
            assert await lane.put(frame)
            await asyncio.sleep(pause)
        lane.end(None)

    async with asyncio.TaskGroup() as group:
        group.create_task(put())
        while isinstance(data := await lane.get(), bytes):
            came.append((data, loop.time()))
    assert await lane.get() is None
    assert not await lane.put(b"too late")
    return came


FRAMES = [bytes([n]) * 10 for n in range(30)]


def test_a_lost_frame_never_arrives_and_the_end_does() -> None:
    came = [frame for frame, _ in virtually(through(Faults(loss=0.5), *FRAMES))]
    assert 0 < len(came) < len(FRAMES)
    assert came == [frame for frame in FRAMES if frame in came]
    assert virtually(through(Faults(loss=1.0), *FRAMES)) == []


def test_a_doubled_frame_arrives_twice_at_once() -> None:
    came = virtually(through(Faults(duplication=1.0), *FRAMES))
    assert [frame for frame, _ in came] == [frame for frame in FRAMES for _ in range(2)]


def test_a_sender_is_never_further_ahead_than_the_room_between_it_and_the_reader() -> None:
    async def story() -> None:
        lane = SimulatedLink(FaultInjector(Faults(duplication=1.0)).way(HERE, THERE, "exchange"))
        for frame in FRAMES[:8]:
            await lane.put(frame)
        for _ in range(16):
            await lane.get()
        for frame in FRAMES[:8]:
            await lane.put(frame)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await lane.put(FRAMES[8])

    virtually(story())


def test_a_reordered_frame_is_overtaken_by_the_next() -> None:
    came = [frame for frame, _ in virtually(through(Faults(reordering=1.0), *FRAMES))]
    assert came == [FRAMES[n ^ 1] for n in range(len(FRAMES))]


def test_a_reordered_frame_that_nothing_follows_is_late_and_not_lost() -> None:
    came = virtually(through(Faults(reordering=1.0), FRAMES[0], FRAMES[1], pause=1.0))
    assert came == [(FRAMES[0], LAG), (FRAMES[1], 1.0 + LAG)]


def test_jitter_delays_and_keeps_the_order() -> None:
    came = virtually(through(Faults(delay=1.0, jitter=2.0), *FRAMES[:8]))
    assert [frame for frame, _ in came] == FRAMES[:8]
    times = [time for _, time in came]
    assert times == sorted(times)
    assert 1.0 <= times[0] < 3.0
    assert len(set(times)) > 1


def test_calls_on_one_link_share_its_bandwidth() -> None:
    async def both() -> list[float]:
        weather = FaultInjector(Faults(bandwidth=100.0))
        lanes = [weather.way(HERE, THERE, kind) for kind in ("exchange", "watch")]
        back = weather.way(THERE, HERE, "exchange")
        now = asyncio.get_running_loop().time()
        return [way.send(bytes(50), now).due for way in (*lanes, lanes[0], back)]

    assert virtually(both()) == [0.5, 1.0, 1.5, 0.5]


# ---------------------------------------------------------------- the network


async def test_a_link_may_have_faults_of_its_own_in_one_direction() -> None:
    network = MemoryNetwork()
    a, b, c = (network.transport(timing=Timing(base=0.2, stall=0.1)) for _ in range(3))
    service = Service()
    async with a.serving(service) as at, b.serving(Service()), c.serving(Service()):
        network.between(b.address, at, Faults(loss=1.0))
        assert await c.exchange(at, question())
        with pytest.raises((PeerUnreachable, PeerRefused)):
            await b.exchange(at, question())
        assert len(service.asked) == 1
        network.between(b.address, at, None)
        network.between(at, b.address, Faults(loss=1.0))
        with pytest.raises(WireError):  # the end of the answer is all of it that comes
            await b.exchange(at, question())
        assert len(service.asked) == 2
        network.between(at, b.address, None)
        assert await b.exchange(at, question())


def test_faults_can_be_set_at_run_time_and_delay_is_one_of_them() -> None:
    network = MemoryNetwork(delay=0.5, faults=Faults(loss=0.25), seed=9)
    assert (network.faults, network.seed) == (Faults(delay=0.5, loss=0.25), 9)
    network.delay = 0.1
    assert network.faults == Faults(delay=0.1, loss=0.25)
    network.faults = NONE
    assert network.delay == 0.0


def test_two_halves_part_and_meet_again() -> None:
    async def story() -> None:
        network = MemoryNetwork()
        a, b, c, d = (network.transport(timing=QUICK) for _ in range(4))
        async with a.serving(Service()), b.serving(Service()), c.serving(Service()), d.serving(Service()):
            network.part({a.address, b.address}, {c.address, d.address})
            for one, other in ((a, b), (c, d)):
                assert await one.exchange(other.address, question())
            for one, other in ((a, c), (c, a), (b, d), (d, a)):
                with pytest.raises(PeerUnreachable, match="no connection within 2 s"):
                    await one.exchange(other.address, question())
            network.join()
            for one, other in ((a, c), (c, a), (b, d), (d, a)):
                assert await one.exchange(other.address, question())

    virtually(story())


def test_what_is_held_up_by_a_parting_passes_when_the_halves_meet() -> None:
    async def story() -> None:
        network = MemoryNetwork()
        a, b = network.transport(), network.transport()
        async with a.serving(Service()), b.serving(Service()):
            async with aclosing(b.watch(a.address, pb.WatchRequest())) as notices:
                first = await anext(notices)
                network.part([a.address], [b.address])
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(100):
                        await anext(notices)
                network.join()
            async with aclosing(b.watch(a.address, pb.WatchRequest())) as notices:
                assert await anext(notices) == first

    virtually(story())


# ---------------------------------------------------------------- nothing wrong ever arrives


def frames_of(what: Message) -> list[bytes]:
    return [serialize(frame) for frame in blocks(what, Packer(LinkEstimate(loopback=True)))]


def received(frames: list[bytes]) -> Message:
    assembler = Assembler()
    for data in frames:
        assembler.feed(parse(data))
    return assembler.finish()


@pytest.mark.parametrize(
    "what",
    [question(), question(30, 0, 9), answer(), answer(40)],
    ids=["question", "question with a body", "answer", "answer with a body"],
)
def test_no_flipped_bit_of_a_message_goes_unnoticed(what: Message) -> None:
    frames = frames_of(what)
    assert content(received(frames)) == content(what)
    for at, frame in enumerate(frames):
        for bit in range(8 * len(frame)):
            changed = bytearray(frame)
            changed[bit >> 3] ^= 1 << (bit & 7)
            with pytest.raises(WireError):
                received([*frames[:at], bytes(changed), *frames[at + 1 :]])


SMALL = [
    pb.Introduction(
        protocol=PROTO, group_tag="lab", observed="192.168.1.7",
        card=pb.SignedCard(card=b"card" * 9, public_key=bytes(32), signature=bytes(64)),
        known=[pb.Acquaintance(id=id_, addresses=[pb.Address(host="10.0.0.1", port=7411)]) for id_ in ("a" * 32, "b")],
    ),
    pb.Introduction(protocol=PROTO),
    pb.Notice(beat=pb.Beat(count=300, version=5)),
    pb.Notice(version=5),
    pb.Notice(version=300),
    pb.Notice(goodbye=pb.Goodbye(reason="leaving")),
]  # fmt: skip


@pytest.mark.parametrize("said", SMALL, ids=lambda said: said.WhichOneof("body") if hasattr(said, "body") else "")
def test_no_flipped_bit_of_an_introduction_or_a_notice_goes_unnoticed(said: pb.Introduction | pb.Notice) -> None:
    read = read_introduction if isinstance(said, pb.Introduction) else read_notice
    data = sealed(said.SerializeToString())
    assert read(data, Limits()) == said
    with pytest.raises(Corrupt, match="does not end with a checksum"):
        read(said.SerializeToString(), Limits())
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(WireError):
            read(bytes(changed), Limits())


def test_a_checksum_of_other_bytes_is_wrong() -> None:
    with pytest.raises(Corrupt, match="a notice has a wrong checksum"):
        read_notice(pb.Notice(version=3).SerializeToString() + sealed(b"other")[-9:], Limits())


share = st.sampled_from([0.0, 0.0, 0.05, 0.3, 1.0])
all_faults = st.builds(
    Faults,
    delay=st.sampled_from([0.0, 0.01, 0.3, 1.5]),
    jitter=st.sampled_from([0.0, 0.2, 1.0]),
    loss=share,
    duplication=share,
    reordering=share,
    corruption=share,
    bandwidth=st.sampled_from([None, None, 1e3, 1e5, 1e7]),
)
sizes = st.lists(st.sampled_from([0, 1, 7, 5_000, 40_000, 1_100_000]), max_size=3)


@given(faults=all_faults, brought=sizes, given_=sizes, seed=st.integers(0, 1 << 32))
@settings(max_examples=30, deadline=None)
def test_an_exchange_gives_what_was_sent_or_an_error_within_the_deadlines(
    faults: Faults, brought: list[int], given_: list[int], seed: int
) -> None:
    asked, gives = question(*brought, seed=1), answer(*given_, seed=2)
    question_said, answer_said = content(asked), content(gives)
    header = asked.header.SerializeToString()
    most = 3 * QUICK.base + QUICK.budget(sum(brought)) + QUICK.budget(sum(given_)) + QUICK.stall

    async def story() -> None:
        loop = asyncio.get_running_loop()
        network = MemoryNetwork(faults=faults, seed=seed)
        a, b = network.transport(timing=QUICK), network.transport(timing=QUICK)
        service = Service(gives)
        async with a.serving(service) as at, b.serving(Service()):
            for _ in range(4):
                began = loop.time()
                try:
                    got, _ = await b.exchange(at, Message(pb.Header.FromString(header), asked.body))
                except ERRORS:
                    pass
                else:
                    assert content(got) == answer_said
                assert loop.time() - began <= most
            network.faults = NONE
            got, _ = await b.exchange(at, Message(pb.Header.FromString(header), asked.body))
            assert content(got) == answer_said
        assert all(content(heard) == question_said for heard in service.asked)

    virtually(story())


@given(faults=all_faults, seed=st.integers(0, 1 << 32))
@settings(max_examples=25, deadline=None)
def test_introductions_and_watches_give_what_was_said_or_an_error(faults: Faults, seed: int) -> None:
    async def story() -> None:
        network = MemoryNetwork(faults=faults, seed=seed)
        a, b = network.transport(timing=QUICK), network.transport(timing=QUICK)
        async with a.serving(Service()) as at, b.serving(Service()):
            for _ in range(4):
                try:
                    said = await b.introduce(at, pb.Introduction(protocol=PROTO))
                except ERRORS:
                    continue
                assert said == pb.Introduction(protocol=PROTO, observed="memory")
            heard: set[tuple[str | None, bool]] = set()
            try:
                async with asyncio.timeout(1000):
                    async with aclosing(b.watch(at, pb.WatchRequest(id="ada"))) as notices:
                        async for notice in notices:
                            heard.add((notice.WhichOneof("body"), notice.beat.count in range(100)))
            except (*ERRORS, TimeoutError):
                pass
            assert heard <= {("beat", True)}
            network.faults = NONE
            assert (await b.introduce(at, pb.Introduction(protocol=PROTO))).observed == "memory"

    virtually(story())


KINDS = {
    "calm": NONE,
    "lossy": Faults(loss=0.3),
    "doubling": Faults(duplication=0.5),
    "swapping": Faults(reordering=0.5),
    "changing": Faults(corruption=0.3),
    "slow": Faults(delay=0.02, jitter=0.02, bandwidth=20e6),
    "all": Faults(delay=0.01, loss=0.05, duplication=0.05, reordering=0.05, corruption=0.05),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_over_real_grpc_too_an_exchange_gives_what_was_sent_or_an_error(kind: str) -> None:
    timing = Timing() if kind in ("calm", "slow") else Timing(base=1.5, stall=1.0)
    faults = KINDS[kind]
    service = Service(answer(50_000, 1_100_000, seed=2))
    a, b = FaultyRelays(GrpcTransport(timing=timing), faults, seed=5), GrpcTransport(timing=timing)
    outcomes = []
    async with a.serving(service) as at, b:
        for number in range(3):
            asked = question(2_000 * number, seed=number)
            try:
                got, _ = await b.exchange(at, asked)
            except ERRORS as error:
                outcomes.append(type(error).__name__)
            else:
                assert content(got) == content(service.gives)
                outcomes.append("answered")
        a.faults = NONE
        assert content((await b.exchange(at, question(10)))[0]) == content(service.gives)
        assert (await b.introduce(at, pb.Introduction(protocol=PROTO))).observed == "127.0.0.1"
    if kind in ("calm", "slow"):
        assert outcomes == ["answered"] * 3
    elif kind != "all":
        assert set(outcomes) != {"answered"}


async def test_a_refusal_passes_the_relay_as_it_is() -> None:
    class Closed(Service):
        async def introduce(self, introduction: pb.Introduction, caller: Caller) -> pb.Introduction:
            raise PeerRefused("bob", RefusalReason.GROUP, "another group")

    async with FaultyRelays(GrpcTransport(), NONE).serving(Closed()) as at, GrpcTransport() as b:
        with pytest.raises(PeerRefused, match="another group") as caught:
            await b.introduce(at, pb.Introduction(protocol=PROTO))
    assert caught.value.reason is RefusalReason.GROUP


# ---------------------------------------------------------------- whole peers


def village(seed: int = 0, **timing: float) -> PeerNetwork:
    return PeerNetwork(timing=dataclasses.replace(brisk(), base=0.5, stall=0.5, **timing), seed=seed)


def someone(where: PeerNetwork, name: str, classes: list[int], seed: int, **more: Any) -> Peer:
    where.tag = "faults"
    settings_: dict[str, Any] = {"identity": Identity.of_seed(name), "session": name, "compute": lambda room: Inline()}
    return where.peer(name, blob_learner(classes, seed, amount=96), **{**settings_, "strategy": "distillation", **more})


@pytest.mark.parametrize("seed", range(2))
def test_peers_learn_on_through_a_storm(seed: int) -> None:
    async def story() -> list[str]:
        where = village(seed)
        a, b = someone(where, "ada", [0, 1], 1), someone(where, "bob", [2, 3], 2)
        async with gathered(a, b):
            where.network.faults = Faults(delay=0.01, loss=0.15, duplication=0.15, reordering=0.15, corruption=0.15)
            async with asyncio.TaskGroup() as group:
                group.create_task(rounds(a, 8))
                group.create_task(rounds(b, 8))
            where.network.faults = NONE
            await a.meet(1, timeout=10)
            await b.meet(1, timeout=10)
            assert (await a.transfer()).committed
        return [event.why for event in where.events["ada"].of(FetchFailed)]

    failures = virtually(story())
    assert failures
    assert virtually(story()) == failures


async def rounds(peer: Peer, amount: int) -> None:
    for _ in range(amount):
        await peer.run(1)
        await asyncio.sleep(0.5)


def test_in_lockstep_a_version_whose_notice_was_lost_is_heard_of_with_the_next_beat() -> None:
    async def story() -> float:
        where = village(suspect_after=5.0, gone_after=20.0, retry_most=1e4)  # nothing else tells of it
        pace = Pace(mode="lockstep", patience=1000.0)
        a, b = (someone(where, n, [0, 1], s, pace=pace) for n, s in (("ada", 1), ("bob", 2)))
        async with gathered(a, b):
            began = asyncio.get_running_loop().time()
            where.network.faults = Faults(loss=0.3)
            async with asyncio.TaskGroup() as group:
                group.create_task(a.run(10))
                group.create_task(b.run(10))
            return asyncio.get_running_loop().time() - began

    assert virtually(story()) < 100
