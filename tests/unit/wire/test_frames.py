"""Frames are what the generated classes read and write, and nothing that a peer claims is believed unchecked."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerlearn.config import MIB, Limits
from peerlearn.errors import Corrupt, ForeignProtocol, Oversized, Truncated, WireError
from peerlearn.wire.compress import LinkEstimate, Packer
from peerlearn.wire.frames import WHOLE_BYTES, Assembler, Block, Frame, Message, blocks, check_header, parse, serialize
from peerlearn.wire.seal import sealed
from peerlearn.wire.v1 import fabric_pb2 as pb
from tests.support.headers import floats, header

LOOPBACK = LinkEstimate(loopback=True)


def message(*counts: int, seed: int = 0) -> Message:
    rng = np.random.default_rng(seed)
    body = tuple(rng.standard_normal(n, np.float32).view(np.uint8).data for n in counts)
    return Message(header(*(floats(f"t{i}", n) for i, n in enumerate(counts))), body)


def sent(what: Message) -> list[bytes]:
    return [serialize(frame) for frame in blocks(what, Packer(LOOPBACK))]


def received(frames: list[bytes], limits: Limits | None = None) -> Message | None:
    assembler, whole = Assembler(limits), None
    for data in frames:
        whole = assembler.feed(parse(data, limits))
    assembler.finish()
    return whole


def body_of(what: Message | None) -> bytes:
    assert what is not None
    return b"".join(what.body)


# ---------------------------------------------------------------- framing


@given(st.binary(max_size=300) | st.integers(1, 3).map(lambda n: bytes(n * 70_000)))
def test_a_block_is_the_generated_frame_byte_for_byte(data: bytes) -> None:
    generated = pb.Frame(block=data).SerializeToString()
    assert serialize(Block((memoryview(data[:7]), memoryview(data[7:])))) == generated
    frame = parse(generated)
    assert isinstance(frame, Block)
    assert b"".join(frame.parts) == data


def test_every_frame_of_a_message_is_read_by_the_generated_class_and_the_reverse() -> None:
    original = message(10, 600_000, 3)
    frames = sent(original)
    generated = [pb.Frame.FromString(data) for data in frames]
    assert [frame.WhichOneof("body") for frame in generated] == ["header", "block", "block", "block", "trailer"]
    assert b"".join(frame.block for frame in generated) == b"".join(original.body)
    assert body_of(received([frame.SerializeToString() for frame in generated])) == b"".join(original.body)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=6))
def test_a_short_body_stands_beside_its_header(counts: list[int]) -> None:
    original = message(*counts)
    frames = [serialize(frame) for frame in blocks(original, Packer(LOOPBACK), beside=True)]
    short = original.header.body_bytes <= WHOLE_BYTES
    assert (len(frames) == 1) is short
    assert pb.Frame.FromString(frames[0]).whole == (body_of(original) if short else b"")
    got = received(frames)
    assert got is not None
    assert got.header == original.header
    assert body_of(got) == body_of(original)


@pytest.mark.parametrize("nbytes", [0, 8])
@pytest.mark.parametrize("wrong", [1, -1])
def test_a_body_beside_a_header_is_as_long_as_the_header_says(nbytes: int, wrong: int) -> None:
    said = header(floats("w", nbytes // 4)) if nbytes else header()
    frame = parse(serialize(pb.Frame(header=said, whole=bytes(abs(nbytes + wrong)))))
    with pytest.raises(Corrupt, match=f"declares {nbytes} bytes of body, {abs(nbytes + wrong)} came"):
        feed([frame])


def test_a_body_beside_a_header_has_a_bound_of_its_own() -> None:
    limits = Limits(header_bytes=1000)
    small = pb.Frame(header=header(floats("w", WHOLE_BYTES // 4)), whole=bytes(WHOLE_BYTES))
    assert parse(serialize(small), limits) == small
    with pytest.raises(Oversized, match="at most"):
        parse(serialize(pb.Frame(header=header(), whole=bytes(WHOLE_BYTES + 1100))), limits)


@pytest.mark.parametrize("at", [-60, -30, -12, -3])
def test_a_changed_byte_of_a_body_beside_its_header_is_noticed(at: int) -> None:
    (frame,) = blocks(message(20), Packer(LOOPBACK), beside=True)
    data = bytearray(serialize(frame))
    data[at] ^= 4
    with pytest.raises(Corrupt):
        parse(bytes(data))


def test_nothing_but_a_header_has_a_body_beside_it() -> None:
    trailer = pb.Frame(trailer=pb.Trailer(checksum=1), whole=b"abcd")
    with pytest.raises(Corrupt, match="beside"):
        parse(serialize(trailer))


def test_a_received_block_is_a_view_not_a_copy() -> None:
    data = serialize(Block((memoryview(bytes(MIB)),)))
    frame = parse(data)
    assert isinstance(frame, Block)
    assert frame.parts[0].obj is data


def test_unknown_fields_and_overlong_lengths_are_tolerated() -> None:
    unknown = b"\x98\x06\x07"  # field 99, varint 7
    plain = pb.Frame(block=b"abc").SerializeToString()
    for data in (plain + unknown, unknown + plain, b"\x1a\x83\x80\x00abc"):
        frame = parse(data)
        assert isinstance(frame, Block)
        assert bytes(frame.parts[0]) == b"abc"


@given(st.binary(max_size=64))
def test_any_bytes_parse_or_are_refused_by_name(data: bytes) -> None:
    try:
        frame = parse(data)
    except WireError:
        return
    with pytest.raises(WireError):
        feed([frame])


@pytest.mark.parametrize("data", [b"\x1a" + b"\xff" * 30, b"\x1a\x05abc", b"\x0a\x7fx", b"\x0f"])
def test_a_broken_frame_is_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        parse(data)


def test_a_header_with_more_tensors_than_allowed_never_becomes_objects() -> None:
    flood = b"\x0a\xc0\x84\x3d" + b"\x4a\x00" * 500_000  # empty tensors: two bytes here, a hundred in memory
    for hidden in (b"", b"\x98\x06\x07" * 100, b"\x9a\x06\x01x" * 5000):  # behind unknown fields too
        with pytest.raises(Oversized, match="more than the 4096 tensors"):
            parse(hidden + flood)


def test_a_body_beside_a_header_hides_no_tensors() -> None:
    limits = Limits(tensors=40)
    few, body = header(floats("w", 300)), bytes(1200)
    beside = pb.Frame(header=few, whole=body)
    assert parse(serialize(beside), limits) == beside
    flood = b"\x0a\x84\x02" + b"\x4a\x00" * 130
    data = pb.Frame(whole=body).SerializeToString()
    short = pb.Frame(header=few).SerializeToString()
    for hidden in (short + data + flood, short + flood + data, flood + data, short + flood + data + b"\x79" + bytes(8)):
        with pytest.raises(Oversized, match="more than the 40 tensors"):
            parse(hidden, limits)


def test_as_many_tensors_as_allowed_are_read() -> None:
    full = pb.Frame(header=header(*(floats(f"a rather long name {i}", 1) for i in range(4096))))
    assert parse(serialize(full)) == full


def test_a_header_of_too_many_bytes_is_not_parsed() -> None:
    limits = Limits(header_bytes=1000)
    with pytest.raises(Oversized, match="at most"):
        parse(serialize(pb.Frame(header=pb.Header(sender="x" * 2000))), limits)
    with pytest.raises(Oversized, match="at most"):
        parse(serialize(pb.Frame(header=pb.Header(sender="x" * 2 * WHOLE_BYTES))), limits)


# ---------------------------------------------------------------- messages


@given(st.lists(st.integers(0, 400_000), max_size=4), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_round_trip(counts: list[int], seed: int) -> None:
    original = message(*counts, seed=seed)
    arrived = received(sent(original))
    assert body_of(arrived) == b"".join(original.body)
    assert arrived is not None
    assert arrived.header == original.header


def test_many_small_tensors_share_a_block() -> None:
    frames = sent(message(*[7] * 1000))
    assert len(frames) == 3  # header, one block, trailer


def test_blocks_are_a_mebibyte_at_most() -> None:
    sizes = [len(data) for data in sent(message(1000, 3 * MIB // 4, 5))]
    assert max(sizes) <= MIB + 8


def test_a_message_without_body_is_one_frame() -> None:
    frames = sent(Message(header()))
    assert len(frames) == 1
    arrived = received(frames)
    assert arrived is not None
    assert arrived.body == ()


def test_parts_may_be_cut_anywhere() -> None:
    original = message(500_000, 1000)
    whole = memoryview(b"".join(original.body))
    parts = tuple(whole[at : at + 77_777] for at in range(0, len(whole), 77_777))
    assert body_of(received(sent(Message(original.header, parts)))) == whole


def test_sparse_blocks_travel_packed_even_on_loopback() -> None:
    zeros = np.zeros(2 * MIB, np.uint8)
    zeros[::5000] = 1
    tensors = (floats("dense", 2000), floats("sparse", MIB // 2), floats("rest", 2000))
    noise = np.random.default_rng(0).integers(0, 256, 8000, np.uint8)
    original = Message(header(*tensors), (noise.data, zeros.data, noise[::-1].copy().data))
    frames = sent(original)
    kinds = [pb.Frame.FromString(data).WhichOneof("body") for data in frames]
    assert kinds == ["header", "block", "packed", "packed", "block", "trailer"]
    assembler = Assembler()
    arrived = [assembler.feed(parse(data)) for data in frames][-1]
    assert body_of(arrived) == b"".join(original.body)
    assert assembler.codecs == "lz4"


# ---------------------------------------------------------------- lies


def lying(**changes: object) -> pb.Header:
    return header(pb.TensorHeader(**({"name": "w", "dtype": "float32", "shape": [4], "stored": 4} | changes)))  # type: ignore[arg-type]


def with_fields(**fields: Any) -> pb.Header:
    return pb.Header(protocol=pb.Protocol(major=1), **fields)


INDEX, BITMAP = pb.TensorHeader.INDEX, pb.TensorHeader.BITMAP
LIES: list[tuple[pb.Header, type[WireError], str]] = [
    (pb.Header(protocol=pb.Protocol(major=2)), ForeignProtocol, r"2\.0"),
    (pb.Header(), ForeignProtocol, r"0\.0"),
    (header(body_bytes=1), Corrupt, "add up to 0"),
    (header(floats("w", 4), body_bytes=17), Corrupt, "add up to 16"),
    (header(body_bytes=1 << 62), Oversized, "bytes of tensors"),
    (with_fields(answer=bytes(17)), Oversized, "17 bytes of the name of an answer"),
    (with_fields(query=pb.Query(resume=pb.Resume(answer=bytes(17)))), Oversized, "17 bytes of the name of an answer"),
    (with_fields(resumed_at=1), Oversized, "1 bytes that have come of it"),
    (header(floats("w", 4), floats("w", 4)), Corrupt, "'w' twice"),
    (header(*(floats(str(i), 1) for i in range(5000))), Oversized, "tensors"),
    (lying(name=""), Corrupt, "without a name"),
    (lying(name="n" * 300), Oversized, "tensor name"),
    (lying(dtype="complex64"), Corrupt, "complex64"),
    (lying(encoding=7), Corrupt, "encoding 7"),
    (lying(shape=[1] * 9, stored=1), Oversized, "dimensions"),
    (lying(shape=[1 << 40, 1 << 40], stored=0), Oversized, "bytes of tensor 'w'"),
    (lying(shape=[0, 1 << 63], stored=0), Oversized, "bytes of tensor 'w'"),
    (lying(stored=3), Corrupt, "stores 3"),
    (lying(stored=5, encoding=INDEX), Corrupt, "more than the 4"),
    (lying(cast_from="int64"), Corrupt, "cast"),
    (lying(dtype="int8", cast_from="float32", scale=float("nan")), Corrupt, "scale"),
    (lying(dtype="int8", cast_from="float32", scale=-1), Corrupt, "scale"),
]


@pytest.mark.parametrize(("lie", "error", "match"), LIES, ids=[f"{n}-{lie[2]}" for n, lie in enumerate(LIES)])
def test_a_lying_header_is_refused_before_anything_is_allocated(
    lie: pb.Header, error: type[WireError], match: str
) -> None:
    with pytest.raises(error, match=match):
        check_header(lie, Limits())


def test_tensors_without_knowledge_are_corrupt() -> None:
    lie = header(floats("w", 1))
    lie.ClearField("knowledge")
    with pytest.raises(Corrupt, match="no knowledge"):
        check_header(lie, Limits())


def test_what_decoding_would_hold_counts_against_the_limit() -> None:
    # 1.125 bytes of body per value, 9 bytes once decoded
    line = pb.TensorHeader(name="w", dtype="int8", shape=[800], stored=800, encoding=BITMAP)
    with pytest.raises(Oversized, match="once decoded"):
        check_header(header(line, body_bytes=900), Limits(body_bytes=4000))


def test_an_index_beyond_int32_is_corrupt() -> None:
    line = pb.TensorHeader(name="w", dtype="int8", shape=[2**31 + 1], stored=1, encoding=INDEX)
    with pytest.raises(Corrupt, match="int32"):
        check_header(header(line, body_bytes=5), Limits(body_bytes=2**33))


def test_an_answer_may_have_a_name_of_sixteen_bytes() -> None:
    named = with_fields(answer=bytes(16), query=pb.Query(resume=pb.Resume(answer=bytes(16))))
    check_header(named, Limits())


def test_a_newer_minor_and_unknown_fields_are_welcome() -> None:
    newer = header()
    newer.protocol.minor = 9
    check_header(newer, Limits())
    unknown = pb.Frame(header=newer).SerializeToString() + b"\x98\x06\x07"
    assert received([sealed(unknown)]) is not None


def test_a_header_without_its_checksum_is_refused() -> None:
    plain = pb.Frame(header=header()).SerializeToString()
    assert received([sealed(plain)]) is not None
    for bare in (plain, plain + b"\x98\x06\x07", sealed(plain) + b"\x98\x06\x07"):
        with pytest.raises(Corrupt, match="does not end with a checksum"):
            received([bare])


# ---------------------------------------------------------------- streams


def frames_of(*counts: int) -> list[Frame]:
    return [parse(data) for data in sent(message(*counts))]


def feed(frames: list[Frame], limits: Limits | None = None) -> None:
    assembler = Assembler(limits)
    for frame in frames:
        assembler.feed(frame)
    assembler.finish()


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_a_stream_that_ends_early_is_truncated(kept: int) -> None:
    with pytest.raises(Truncated):
        feed(frames_of(400_000)[:kept])


def test_a_trailer_before_the_body_is_whole_is_truncated() -> None:
    first, block, _, trailer = frames_of(400_000)
    with pytest.raises(Truncated, match="1048576 of 1600000"):
        feed([first, block, trailer])


def test_reordered_frames_are_corrupt() -> None:
    first, one, two, trailer = frames_of(400_000)
    for order in ([one, first], [first, first], [trailer, first], [first, two, one, trailer]):
        with pytest.raises((Corrupt, Truncated)):
            feed(order)
    for foreign in (pb.Frame(), pb.Frame(proceed=pb.Proceed())):
        with pytest.raises(Corrupt, match="kind"):
            feed([first, foreign])


def test_frames_after_the_end_are_corrupt() -> None:
    frames = frames_of(4)
    for extra in frames:
        with pytest.raises(Corrupt, match="after the end"):
            feed([*frames, extra])


@pytest.mark.parametrize("at", [0, 777, 1_599_999])
def test_one_flipped_bit_is_corrupt(at: int) -> None:
    body = bytearray(b"".join(message(400_000).body))
    frames = frames_of(400_000)
    body[at] ^= 1
    changed = [Block((memoryview(body)[:MIB],)), Block((memoryview(body)[MIB:],))]
    with pytest.raises(Corrupt, match="checksum"):
        feed([frames[0], *changed, frames[-1]])


def test_too_much_and_too_large_and_nothing_are_refused() -> None:
    first = frames_of(4)[0]
    with pytest.raises(Corrupt, match="block of 17 bytes"):
        feed([first, Block((memoryview(bytes(17)),))])
    with pytest.raises(Corrupt, match="block of 0 bytes"):
        feed([first, Block((memoryview(b""),))])
    with pytest.raises(Oversized, match="at most"):
        feed([first, Block((memoryview(bytes(3 * MIB)),))])
    with pytest.raises(Oversized, match="at most"):
        feed([first, pb.Frame(packed=pb.Packed(codec=pb.Packed.LZ4, raw_bytes=2**32 - 1, data=b"x"))])


def test_nothing_is_allocated_for_a_header_alone() -> None:
    huge = header(floats("w", Limits().body_bytes // 4))
    assembler = Assembler()
    assert assembler.feed(pb.Frame(header=huge)) is None
    assert assembler.header == huge
    assert assembler.progress == f"after 0 of {Limits().body_bytes} bytes"
    assert assembler._arena is None
