"""What each claim of a header stands for, and each bound to the byte: what is at it passes, what is beyond does not."""

import re
from typing import Any

import pytest

from peerlearn.config import Limits
from peerlearn.errors import Corrupt, Oversized, WireError
from peerlearn.wire.manifest import (
    CASTS,
    DIGEST_BYTES,
    FLOATS,
    ITEM_BYTES,
    _plain_bytes,
    body_sections,
    check_answer_name,
    check_header,
    elements,
    is_held,
    sections,
)
from peerlearn.wire.v1 import fabric_pb2 as pb

DENSE, INDEX, BITMAP = pb.TensorHeader.DENSE, pb.TensorHeader.INDEX, pb.TensorHeader.BITMAP
NAME = bytes(DIGEST_BYTES)


def tensor(**changes: Any) -> pb.TensorHeader:
    """Twelve float32 in a whole tensor, but for these changes."""
    fields: dict[str, Any] = {"name": "w", "dtype": "float32", "shape": [3, 4], "stored": 12}
    return pb.TensorHeader(**(fields | changes))


def sparse(encoding: pb.TensorHeader.Encoding = INDEX, **changes: Any) -> pb.TensorHeader:
    """Five values of twelve."""
    return tensor(**({"encoding": encoding, "stored": 5} | changes))


def header(*tensors: pb.TensorHeader, **fields: Any) -> pb.Header:
    """A header with these tensors and the bytes of body that they stand for."""
    made = pb.Header(protocol=pb.Protocol(major=1), tensors=tensors, **fields)
    if tensors:
        made.knowledge.params.architecture = "a"
    known = [one for one in tensors if one.dtype in ITEM_BYTES]
    made.body_bytes = made.body_bytes or sum(nbytes for one in known for nbytes, _ in sections(one))
    return made


def refused(said: pb.Header, error: type[WireError], why: str, limits: Limits | None = None) -> None:
    with pytest.raises(error, match=f"^{re.escape(why)}$"):
        check_header(said, limits or Limits())


def too_much(declared: int, what: str, most: int) -> str:
    return f"the peer declares {declared} {what}, this one takes at most {most}: raise its Limits to take more"


# ---------------------------------------------------------------- what the lines stand for


@pytest.mark.parametrize(("shape", "count"), [([], 1), ([7], 7), ([3, 4, 5], 60), ([3, 0, 5], 0)])
def test_a_tensor_has_as_many_elements_as_its_shape(shape: list[int], count: int) -> None:
    assert elements(tensor(shape=shape)) == count


@pytest.mark.parametrize(
    ("line", "runs"),
    [
        (tensor(), ((48, 4),)),
        (tensor(dtype="float64"), ((96, 8),)),
        (sparse(INDEX), ((20, 4), (20, 4))),
        (sparse(INDEX, dtype="float16"), ((10, 2), (20, 4))),
        (sparse(BITMAP), ((20, 4), (2, 1))),
        (sparse(BITMAP, shape=[16]), ((20, 4), (2, 1))),
        (sparse(BITMAP, shape=[17]), ((20, 4), (3, 1))),
        (sparse(INDEX, base=NAME, digest=NAME), ((20, 4), (20, 4))),
        (sparse(INDEX, base=NAME, digest=NAME, stored=0), ()),
        (sparse(INDEX, stored=0), ((0, 4), (0, 4))),
    ],
)
def test_values_come_first_and_then_their_positions(line: pb.TensorHeader, runs: tuple[tuple[int, int], ...]) -> None:
    assert sections(line) == runs
    assert list(body_sections(header(tensor(name="v"), line))) == [(48, 4), *runs]


def test_a_tensor_is_held_if_it_builds_on_another_and_stores_nothing() -> None:
    assert is_held(sparse(base=NAME, stored=0)) is True
    assert is_held(sparse(base=NAME)) is False
    assert is_held(sparse(stored=0)) is False


# ---------------------------------------------------------------- bounds of the header


BOUNDS: list[tuple[str, Limits, dict[str, Any], dict[str, Any]]] = [
    ("characters of sender", Limits(name_chars=7), {"sender": "x" * 7}, {"sender": "x" * 8}),
    ("characters of session", Limits(name_chars=7), {"session": "x" * 7}, {"session": "x" * 8}),
    ("characters of strategy", Limits(name_chars=7), {"strategy": "x" * 7}, {"strategy": "x" * 8}),
    (
        "bytes of query",
        Limits(select_bytes=7),
        {"query": pb.Query(select=bytes(7))},
        {"query": pb.Query(select=bytes(8))},
    ),
    ("bytes of the name of an answer", Limits(), {"answer": bytes(16)}, {"answer": bytes(17)}),
    (
        "bytes of the name of an answer",
        Limits(),
        {"query": pb.Query(resume=pb.Resume(answer=bytes(16)))},
        {"query": pb.Query(resume=pb.Resume(answer=bytes(17)))},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("what", "limits", "most", "more"), BOUNDS)
def test_what_is_at_its_bound_passes_and_one_more_does_not(
    what: str, limits: Limits, most: dict[str, Any], more: dict[str, Any]
) -> None:
    check_header(header(**most), limits)
    bound = {"sender": 7, "session": 7, "strategy": 7, "query": 7}.get(what.rsplit(" ", 1)[-1], DIGEST_BYTES)
    refused(header(**more), Oversized, too_much(bound + 1, what, bound), limits)


def test_tensors_are_counted_and_their_bytes_bounded() -> None:
    limits = Limits(tensors=2, body_bytes=96)
    check_header(header(tensor(name="v"), tensor()), limits)
    refused(header(tensor(name="u"), tensor(name="v"), tensor()), Oversized, too_much(3, "tensors", 2), limits)
    refused(header(body_bytes=97), Oversized, too_much(97, "bytes of tensors", 96), limits)


def test_names_of_held_tensors_are_bounded_and_whole() -> None:
    limits = Limits(tensors=2)
    check_header(header(query=pb.Query(held=bytes(32))), limits)
    many = too_much(48, "bytes of names of tensors held", 32)
    refused(header(query=pb.Query(held=bytes(48))), Oversized, many, limits)
    for odd in (1, 15, 17):
        why = f"the query names tensors that are held in {odd} bytes, not 16 each"
        refused(header(query=pb.Query(held=bytes(odd))), Corrupt, why)


@pytest.mark.parametrize("top", [0.0, 0.5, 1.0])
def test_a_share_may_be_nothing_and_all(top: float) -> None:
    check_header(header(query=pb.Query(top=top)), Limits())


@pytest.mark.parametrize("top", [-0.5, 1.5, float("nan"), float("inf")])
def test_a_share_is_between_nothing_and_all(top: float) -> None:
    why = f"the query asks for a share of {top} of the values, which is not between 0 and 1"
    refused(header(query=pb.Query(top=top)), Corrupt, why)


def test_an_answer_resumes_within_its_own_body() -> None:
    check_header(header(tensor(), resumed_at=48), Limits())
    refused(header(tensor(), resumed_at=49), Oversized, too_much(49, "bytes that have come of it", 48))


def test_the_name_of_an_answer_is_bounded_where_it_comes_alone() -> None:
    check_answer_name(bytes(16))
    with pytest.raises(Oversized, match=f"^{too_much(17, 'bytes of the name of an answer', 16)}$"):
        check_answer_name(bytes(17))


def test_tensors_belong_to_knowledge_and_have_names_of_their_own() -> None:
    bare = header(tensor(), tensor(name="v"))
    bare.ClearField("knowledge")
    refused(bare, Corrupt, "the header lists 2 tensors but names no knowledge that they belong to")
    refused(header(tensor(), tensor(name="v"), tensor()), Corrupt, "the header lists tensor 'w' twice")
    refused(header(sparse(), sparse()), Corrupt, "the header lists tensor 'w' twice")


@pytest.mark.parametrize("wrong", [1, -1])
def test_the_body_is_as_long_as_its_tensors(wrong: int) -> None:
    lines = tensor(), sparse(name="v"), tensor(name="u")
    why = f"the header declares {136 + wrong} bytes of body, its tensors add up to 136"
    refused(header(*lines, body_bytes=136 + wrong), Corrupt, why)
    check_header(header(*lines, body_bytes=136), Limits())


# ---------------------------------------------------------------- bounds of one tensor


REFUSED: list[tuple[pb.TensorHeader, type[WireError], str]] = [
    (tensor(name=""), Corrupt, "the header lists a tensor without a name"),
    (tensor(name="w" * 9), Oversized, too_much(9, "characters of tensor name", 8)),
    (tensor(dtype="complex64"), Corrupt, "tensor 'w' has dtype 'complex64', which this peer does not know"),
    (tensor(dtype="x" * 41), Corrupt, f"tensor 'w' has dtype {'x' * 40!r}, which this peer does not know"),
    (tensor(encoding=3), Corrupt, "tensor 'w' has encoding 3, which this peer does not know"),
    (tensor(shape=[1, 3, 1, 4]), Oversized, too_much(4, "dimensions of tensor 'w'", 3)),
    (
        tensor(cast_from="int64", dtype="int8"), Corrupt,
        "tensor 'w' claims a cast from 'int64' to int8, which there is not",
    ),
    (tensor(cast_from="float32"), Corrupt, "tensor 'w' claims a cast from 'float32' to float32, which there is not"),
    (
        tensor(cast_from="x" * 41, dtype="int8"), Corrupt,
        f"tensor 'w' claims a cast from {'x' * 40!r} to int8, which there is not",
    ),
    *(
        (
            tensor(cast_from="float32", dtype="int8", scale=scale), Corrupt,
            f"tensor 'w' has scale {float(scale)}, which is not a positive number",
        )
        for scale in (0, -1, float("nan"), float("inf"))
    ),
    *(
        (line, Corrupt, "tensor 'w' is named by a digest that does not have 16 bytes")
        for line in (
            tensor(digest=bytes(15)), tensor(digest=bytes(1)), sparse(digest=bytes(17)),
            sparse(base=bytes(15), digest=NAME), sparse(base=bytes(1), digest=NAME),
        )
    ),
    *(
        (line, Corrupt, "tensor 'w' builds on another, and is not whole, lossless and sparse as that must be")
        for line in (
            tensor(base=NAME, digest=NAME), sparse(base=NAME),
            sparse(base=NAME, digest=NAME, cast_from="float32", dtype="float16"),
        )
    ),
    (tensor(stored=11), Corrupt, "tensor 'w' stores 11 values where its shape has 12"),
    (tensor(stored=13), Corrupt, "tensor 'w' stores 13 values where its shape has 12"),
    (sparse(stored=13), Corrupt, "tensor 'w' stores 13 values, more than the 12 its shape has"),
    (sparse(shape=[256, 257]), Oversized, too_much(4 * 256 * 257, "bytes of tensor 'w'", 4 * 256 * 256)),
    (sparse(shape=[0, 65_537], stored=0), Oversized, too_much(4 * 65_537, "bytes of tensor 'w'", 4 * 256 * 256)),
    (tensor(shape=[65_537], stored=65_537), Oversized, too_much(4 * 65_537, "bytes of tensor 'w'", 4 * 256 * 256)),
]  # fmt: skip
TAKEN = [
    tensor(), tensor(name="w" * 8), tensor(shape=[1, 3, 4]), tensor(shape=[], stored=1), tensor(shape=[0, 9], stored=0),
    tensor(digest=NAME), sparse(digest=NAME), sparse(), sparse(BITMAP), sparse(stored=12), sparse(stored=0),
    sparse(shape=[256, 256]), sparse(shape=[0, 65_536], stored=0), tensor(shape=[256, 256], stored=65_536),
    sparse(base=NAME, digest=NAME), sparse(BITMAP, base=NAME, digest=NAME, stored=0),
    *(tensor(dtype=dtype) for dtype in ITEM_BYTES),
    *(tensor(dtype=small, cast_from=large, scale=0.5) for small in CASTS for large in FLOATS),
    tensor(dtype="float16", cast_from="float32"),
]  # fmt: skip


@pytest.mark.parametrize("line", TAKEN, ids=range(len(TAKEN)))
def test_a_sound_tensor_at_its_bounds_is_taken(line: pb.TensorHeader) -> None:
    said = header(line)
    check_header(said, Limits(name_chars=8, dims=3, body_bytes=max(said.body_bytes * 6, 4 * 256 * 256)))


@pytest.mark.parametrize(("line", "error", "why"), REFUSED, ids=range(len(REFUSED)))
def test_a_tensor_beyond_a_bound_is_refused_with_the_reason(
    line: pb.TensorHeader, error: type[WireError], why: str
) -> None:
    said = header(line)
    said.body_bytes = min(said.body_bytes, 4 * 256 * 256)
    refused(said, error, why, Limits(name_chars=8, dims=3, body_bytes=4 * 256 * 256))


def test_positions_are_int32_and_a_bitmap_has_none() -> None:
    limits, most = Limits(body_bytes=2**40), 2**31
    check_header(header(sparse(shape=[most])), limits)
    check_header(header(sparse(shape=[most + 1], stored=0)), limits)
    check_header(header(sparse(BITMAP, shape=[most + 1])), limits)
    why = f"tensor 'w' has {most + 1} elements, more than int32 can index"
    refused(header(sparse(shape=[most + 1])), Corrupt, why, limits)
    refused(header(sparse(shape=[most + 1], stored=1)), Corrupt, why, limits)


@pytest.mark.parametrize(
    ("line", "nbytes"),
    [
        (tensor(shape=[100], stored=100, dtype="int8", cast_from="float32", scale=1), 400),
        (tensor(shape=[100], stored=100, dtype="bfloat16", cast_from="float64"), 800),
        (sparse(INDEX, shape=[100], stored=50), 50 * (4 + 8)),
        (sparse(BITMAP, shape=[100], stored=100), 100 * (4 + 8)),
        (sparse(INDEX, shape=[100], stored=50, dtype="int8", cast_from="float64", scale=1), 50 * (8 + 8)),
        (sparse(INDEX, shape=[100], stored=50, base=NAME, digest=NAME), 100 * 4 + 50 * (4 + 8)),
        (sparse(INDEX, shape=[100], stored=1, base=NAME, digest=NAME, dtype="float64"), 100 * 8 + (8 + 8)),
    ],
)
def test_memory_of_the_decoded_tensors_is_bounded_to_the_byte(line: pb.TensorHeader, nbytes: int) -> None:
    held = sparse(name="h", base=NAME, digest=NAME, stored=0)  # costs nothing: the consumer has it
    whole = tensor(name="v")
    check_header(header(whole, line, held), Limits(body_bytes=nbytes + 48))
    why = too_much(nbytes + 48, "bytes of tensors once decoded", nbytes + 47)
    refused(header(whole, line, held), Oversized, why, Limits(body_bytes=nbytes + 47))


# ---------------------------------------------------------------- the quick look


@pytest.mark.parametrize(
    "line", [tensor(), tensor(digest=NAME), tensor(name="w" * 8), tensor(shape=[1, 3, 4]), tensor(dtype="int8")]
)
def test_whole_tensors_as_they_are_need_the_quick_look_only(line: pb.TensorHeader) -> None:
    nbytes = 12 * ITEM_BYTES[line.dtype]
    assert _plain_bytes(line, line.name, Limits(name_chars=8, dims=3, body_bytes=nbytes)) == nbytes


@pytest.mark.parametrize(("line", "error", "why"), REFUSED, ids=range(len(REFUSED)))
def test_the_quick_look_takes_nothing_that_the_long_one_refuses(
    line: pb.TensorHeader, error: type[WireError], why: str
) -> None:
    assert _plain_bytes(line, line.name, Limits(name_chars=8, dims=3, body_bytes=4 * 256 * 256)) is None


@pytest.mark.parametrize(
    "line",
    [
        sparse(stored=12), sparse(BITMAP, stored=12), tensor(cast_from="float32", dtype="float16"),
        sparse(base=NAME, digest=NAME, stored=12), tensor(shape=[0], stored=0),
    ],
)  # fmt: skip
def test_what_is_not_whole_or_not_as_it_is_gets_the_long_look(line: pb.TensorHeader) -> None:
    assert _plain_bytes(line, line.name, Limits()) is None
