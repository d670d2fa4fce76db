"""Packing gives the bytes back, is used where it pays, and unpacks nothing that it was not promised."""

from itertools import count
from typing import Any

import lz4.block
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from peerlearn.config import MIB
from peerlearn.errors import Corrupt
from peerlearn.wire.compress import GIGABIT, PROBE_EVERY, LinkEstimate, Packer, codec_name, compress, unpack
from peerlearn.wire.v1 import fabric_pb2 as pb

WIDTHS: dict[int, int] = {
    pb.Packed.LZ4: 1,
    pb.Packed.SHUFFLE2_LZ4: 2,
    pb.Packed.SHUFFLE4_LZ4: 4,
    pb.Packed.SHUFFLE8_LZ4: 8,
}
RNG = np.random.default_rng(0)
WEIGHTS = RNG.standard_normal(MIB // 4, np.float32)
RELU = np.maximum(WEIGHTS, 0)
SPARSE = np.where(WEIGHTS > 2.5, WEIGHTS, 0).astype(np.float32)
COUNTING = np.arange(MIB // 4, dtype=np.int32)  # rising indices: lz4 finds nothing until bytes are shuffled


def raw(array: NDArray[Any]) -> tuple[memoryview]:
    return (array.view(np.uint8).data,)


def quick() -> float:
    """A clock that makes every codec as fast as it needs to be."""
    return next(_ticks) * 1e-9


_ticks = count()


def packed_by(link: LinkEstimate, array: NDArray[Any]) -> pb.Packed | None:
    tensor = Packer(link, clock=quick).tensor(array.nbytes, array.itemsize)
    assert tensor is not None
    return tensor.pack(raw(array))


@given(st.sampled_from(sorted(WIDTHS)), st.binary(min_size=1, max_size=400))
def test_round_trip(codec: int, data: bytes) -> None:
    data = data * WIDTHS[codec]
    packed = pb.Packed(codec=codec, raw_bytes=len(data), data=compress(codec, memoryview(data)))  # type: ignore[arg-type]
    place = memoryview(bytearray(len(data)))
    unpack(packed, place)
    assert bytes(place) == data


@given(st.binary(max_size=100), st.integers(0, 9), st.integers(0, 300), st.integers(0, 300))
def test_hostile_blocks_are_corrupt_or_as_long_as_declared(data: bytes, codec: int, size: int, room: int) -> None:
    place = memoryview(bytearray(room))
    try:
        unpack(pb.Packed(codec=codec, raw_bytes=size, data=data), place)  # type: ignore[arg-type]
    except Corrupt:
        assert bytes(place) == bytes(room)
    else:
        assert size == room > 0


@pytest.mark.parametrize(
    ("codec", "size", "data", "match"),
    [
        (0, 4, b"abcd", "codec 0"),
        (77, 4, b"abcd", "codec 77"),
        (pb.Packed.LZ4, 1000, b"\xff" * 20, "decompressed"),
        (pb.Packed.LZ4, 1000, lz4.block.compress(b"a" * 999, store_size=False), "999 bytes"),
        (pb.Packed.LZ4, 1000, lz4.block.compress(b"a" * 1001, store_size=False), "decompressed"),
        (pb.Packed.SHUFFLE8_LZ4, 1001, lz4.block.compress(b"a" * 1001, store_size=False), "does not fit"),
        (pb.Packed.LZ4, 0, b"", "does not fit"),
    ],
)
def test_what_is_wrong_with_a_block_is_said(codec: int, size: int, data: bytes, match: str) -> None:
    with pytest.raises(Corrupt, match=match):
        unpack(pb.Packed(codec=codec, raw_bytes=size, data=data), memoryview(bytearray(size)))  # type: ignore[arg-type]


def test_a_gigabit_link_packs_what_shrinks_and_nothing_else() -> None:
    link = LinkEstimate.to("192.168.1.20")
    assert link.rate == GIGABIT
    relu = packed_by(link, RELU)
    assert relu is not None
    assert relu.codec == pb.Packed.MASK4
    assert len(relu.data) < 0.55 * RELU.nbytes
    repeated = packed_by(link, np.tile(WEIGHTS[:1000], MIB // 4000).view(np.uint8))
    assert repeated is not None
    assert repeated.codec == pb.Packed.LZ4
    indices = packed_by(link, COUNTING)
    assert indices is not None
    assert indices.codec == pb.Packed.SHUFFLE4_LZ4
    half = packed_by(link, WEIGHTS.astype(np.float16))
    assert half is None


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "memory"])
def test_loopback_packs_only_what_all_but_vanishes(host: str) -> None:
    link = LinkEstimate.to(host)
    assert packed_by(link, RELU) is None
    assert packed_by(link, COUNTING) is None
    assert packed_by(link, SPARSE) is not None


def test_a_fast_link_is_not_slowed_by_a_codec() -> None:
    link = LinkEstimate()
    assert link.pays(0.6, 700e6, 2e9)
    link.moved(1_250_000_000, 1.0)
    assert not link.pays(0.6, 700e6, 2e9)  # 10 Gbit: the codec is slower than the wire
    assert not link.pays(0.96, 1e12, 1e12)


def test_measurements_replace_the_assumption_and_then_average() -> None:
    link = LinkEstimate()
    link.moved(0, 1.0)
    link.moved(10, 0.0)
    assert link.rate == GIGABIT
    link.moved(1000, 1.0)
    assert link.rate == 1000
    link.moved(2000, 1.0)
    assert link.rate == 1500


def test_a_slow_codec_is_not_used() -> None:
    slow = count()
    tensor = Packer(LinkEstimate(), clock=lambda: float(next(slow))).tensor(RELU.nbytes, 4)  # a second per probe
    assert tensor is not None
    assert tensor.pack(raw(RELU)) is None


def test_the_codec_is_looked_at_again_every_so_often() -> None:
    tensor = Packer(LinkEstimate(), clock=quick).tensor(100 * MIB, 4)
    assert tensor is not None
    assert tensor.pack(raw(WEIGHTS)) is None
    assert [tensor.pack(raw(SPARSE)) for _ in range(PROBE_EVERY - 1)] == [None] * (PROBE_EVERY - 1)
    assert tensor.pack(raw(SPARSE)) is not None
    assert tensor.pack(raw(WEIGHTS)) is None  # the sample promised more than this block gave
    assert tensor.pack(raw(SPARSE)) is None


def test_tiny_tensors_are_left_alone() -> None:
    assert Packer(LinkEstimate()).tensor(4095, 4) is None


def test_a_block_in_pieces_is_packed_as_one() -> None:
    whole = raw(SPARSE)[0]
    tensor = Packer(LinkEstimate(), clock=quick).tensor(SPARSE.nbytes, 4)
    assert tensor is not None
    packed = tensor.pack((whole[:10], whole[10:]))
    assert packed is not None
    place = memoryview(bytearray(len(whole)))
    unpack(packed, place)
    assert place == whole


def test_codecs_have_names_for_people() -> None:
    assert [codec_name(codec) for codec in sorted(WIDTHS)] == ["lz4", "lz4+shuffle2", "lz4+shuffle4", "lz4+shuffle8"]


# ---------------------------------------------------------------- masks


@pytest.mark.parametrize("width", [2, 4, 8])
def test_masked_blocks_come_back_bit_by_bit(width: int) -> None:
    codec = {2: pb.Packed.MASK2, 4: pb.Packed.MASK4, 8: pb.Packed.MASK8}[width]
    hard = np.array([0.0, -0.0, np.nan, np.inf, 1.0], np.dtype(f"f{width}"))
    for amount in (1, 7, 8, 9, 1000):
        values = np.resize(hard, amount)
        into = np.empty(values.nbytes, np.uint8)
        packed = pb.Packed(codec=codec, raw_bytes=values.nbytes, data=compress(codec, values.view(np.uint8).data))
        unpack(packed, into.data)
        assert into.tobytes() == values.tobytes()


@pytest.mark.parametrize("data", [b"", b"\x03" + bytes(4), b"\x01" + bytes(5), b"\xff" + bytes(32)])
def test_a_mask_that_lies_is_corrupt(data: bytes) -> None:
    """Too short; a bit without its value; a value too long; bits beyond the 3 elements."""
    packed = pb.Packed(codec=pb.Packed.MASK4, raw_bytes=12, data=data)
    with pytest.raises(Corrupt):
        unpack(packed, np.empty(12, np.uint8).data)


def test_rectified_maps_are_masked() -> None:
    """52 % zeros at random places, at 1 Gbit/s: the mask leaves 0.51 of the bytes, lz4 0.66."""
    draw = np.random.default_rng(3)
    maps = draw.standard_normal(1 << 18).astype(np.float32)
    maps[draw.random(maps.size) < 0.52] = 0
    packer = Packer(LinkEstimate(), clock=quick)
    tensor = packer.tensor(maps.nbytes, 4)
    assert tensor is not None
    packed = tensor.pack(raw(maps))
    assert packed is not None
    assert packed.codec == pb.Packed.MASK4
    assert len(packed.data) < maps.nbytes / 1.9
