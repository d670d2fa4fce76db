"""What goes in comes out, bit for bit; what a peer claims falsely is refused by name."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peerlearn.config import Limits
from peerlearn.errors import Corrupt, KnowledgeError, Oversized, RefusalReason, WireError
from peerlearn.knowledge import Answer, Json, NotModified, Outputs, Params, Query, Question, Refusal, Sparse
from peerlearn.types import PeerId
from peerlearn.wire.codec import decode_answer, decode_question, encode_answer, encode_question
from peerlearn.wire.compress import LinkEstimate, Packer
from peerlearn.wire.frames import Assembler, Message, blocks, parse, serialize
from peerlearn.wire.tensors import DTYPES
from peerlearn.wire.v1 import fabric_pb2 as pb

ADA = PeerId("ada")
ME: dict[str, Any] = {"sender": ADA, "session": "s1", "strategy": "pairwise"}
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def travelled(message: Message) -> Message:
    """Through frames and bytes, as over a wire."""
    assembler = Assembler()
    for frame in blocks(message, Packer(LinkEstimate())):
        assembler.feed(parse(serialize(frame)))
    return assembler.finish()


def params(tensors: Mapping[str, Tensor | Sparse]) -> Params:
    return Params(tensors=tensors, architecture="arch", version=7, member=2)


def round_trip(tensors: Mapping[str, Tensor | Sparse], cast: str = "") -> Mapping[str, Tensor | Sparse]:
    back = decode_answer(travelled(encode_answer(params(tensors), **ME, cast=cast)))
    assert isinstance(back, Params)
    assert (back.architecture, back.version, back.member) == ("arch", 7, 2)
    assert list(back.tensors) == list(tensors)
    return back.tensors


def dense(tensor: Tensor | Sparse) -> Tensor:
    assert isinstance(tensor, Tensor)
    return tensor


def sparse(tensor: Tensor | Sparse) -> Sparse:
    assert isinstance(tensor, Sparse)
    return tensor


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1, 1).view(torch.uint8)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def some(dtype: torch.dtype, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Any bits at all, NaNs with payloads and infinities among them."""
    count = int(np.prod(shape, dtype=np.int64))
    if not count:
        return torch.empty(shape, dtype=dtype)
    raw = np.random.default_rng(seed).integers(0, 256, count * dtype.itemsize, np.uint8)
    if dtype == torch.bool:
        raw &= 1
    return torch.from_numpy(raw).view(dtype).reshape(shape)


shapes = st.lists(st.integers(0, 9), max_size=5).map(tuple)
dtypes = st.sampled_from(list(DTYPES.values()))


# ---------------------------------------------------------------- lossless


@given(st.lists(st.tuples(dtypes, shapes), max_size=6), st.integers(0, 9))
@settings(deadline=None)
def test_dense_round_trip(kinds: list[tuple[torch.dtype, tuple[int, ...]]], seed: int) -> None:
    tensors = {f"t{n}": some(dtype, shape, seed) for n, (dtype, shape) in enumerate(kinds)}
    back = round_trip(tensors)
    assert all(same_bits(dense(back[name]), tensors[name]) for name in tensors)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_large_non_contiguous_and_learning_tensors(dtype: torch.dtype) -> None:
    large = some(dtype, (1500, 1000))
    tensors = {
        "t": large.t(),
        "odd": some(torch.uint8, (3,)),
        "step": large[:, ::3],
        "one": large[:1, 5:8:3],
        "scalar": large[0, 0],
    }
    if dtype in FLOATS:
        tensors["learning"] = large.clone().requires_grad_()
    back = round_trip(tensors)
    assert all(same_bits(dense(back[name]), tensors[name]) for name in tensors)
    assert not any(dense(t).requires_grad for t in back.values())


@given(
    dtypes.filter(lambda d: d is not torch.bool),
    st.integers(0, 300),
    st.sets(st.integers(0, 299)),
)
@settings(deadline=None)
def test_sparse_round_trip(dtype: torch.dtype, count: int, wanted: set[int]) -> None:
    indices = torch.tensor(sorted(i for i in wanted if i < count), dtype=torch.int64)
    original = Sparse((count, 1), indices, some(dtype, (len(indices),)))
    back = sparse(round_trip({"s": original})["s"])
    assert back.shape == original.shape
    assert torch.equal(back.indices, indices)
    assert same_bits(back.values, original.values)


def sparse_of(count: int, stored: int) -> Sparse:
    return Sparse((count,), torch.arange(stored) * (count // stored), torch.ones(stored))


@pytest.mark.parametrize(("stored", "encoding"), [(10, pb.TensorHeader.INDEX), (5000, pb.TensorHeader.BITMAP)])
def test_sparse_tensors_take_the_smaller_encoding(stored: int, encoding: int) -> None:
    message = encode_answer(params({"s": sparse_of(10_000, stored)}), **ME)
    assert message.header.tensors[0].encoding == encoding
    assert message.header.body_bytes == 4 * stored + min(4 * stored, 1250)


def test_a_bitmap_longer_than_one_step_keeps_its_positions() -> None:
    count = 20_000_000
    indices = torch.arange(0, count, 7)
    back = sparse(round_trip({"s": Sparse((count,), indices, torch.ones(len(indices), dtype=torch.int8))})["s"])
    assert torch.equal(back.indices, indices)


def test_encoding_copies_nothing_and_decoding_gives_views() -> None:
    weight = torch.randn(1000, 1000)
    message = encode_answer(params({"w": weight, "b": torch.randn(7)}), **ME)
    assert np.frombuffer(message.body[0], np.float32).ctypes.data == weight.data_ptr()
    arrived = travelled(message)
    back = decode_answer(arrived)
    assert isinstance(back, Params)
    start = np.frombuffer(arrived.body[0], np.uint8).ctypes.data
    assert dense(back.tensors["w"]).data_ptr() == start
    assert dense(back.tensors["b"]).data_ptr() == start + weight.nbytes


def test_decoded_tensors_keep_their_memory_and_can_be_written() -> None:
    back = dense(round_trip({"flag": torch.tensor([True]), "w": torch.ones(1000)})["w"])
    assert back.data_ptr() % 4 == 0  # the odd byte before it was made up for
    assert torch.equal(back.add_(1), torch.full((1000,), 2.0))


def test_an_encoded_message_is_decoded_without_a_wire_between() -> None:
    tensors: dict[str, Tensor | Sparse] = {"a": torch.ones(5, 5), "empty": torch.empty(0, 3), "s": sparse_of(50, 3)}
    back = decode_answer(encode_answer(params(tensors), **ME))
    assert isinstance(back, Params)
    assert torch.equal(dense(back.tensors["a"]), torch.ones(5, 5))
    assert dense(back.tensors["empty"]).shape == (0, 3)
    assert torch.equal(sparse(back.tensors["s"]).indices, sparse_of(50, 3).indices)


# ---------------------------------------------------------------- casts


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("cast", ["bfloat16", "float16", "int8"])
def test_casts_shrink_wider_floats_and_give_their_dtype_back(dtype: torch.dtype, cast: str) -> None:
    original = torch.linspace(-3, 3, 2001).to(dtype)
    tensors: dict[str, Tensor | Sparse] = {"w": original, "n": torch.arange(5)}
    tensors |= {"s": Sparse((9,), torch.tensor([2, 8]), original[[0, -1]])}
    message = encode_answer(params(tensors), **ME, cast=cast)
    assert message.header.tensors[0].dtype == (cast if dtype.itemsize > DTYPES[cast].itemsize else str(dtype)[6:])
    back = round_trip(tensors, cast)
    assert torch.equal(dense(back["n"]), torch.arange(5))
    assert sparse(back["s"]).values.dtype == dense(back["w"]).dtype == dtype
    error = (dense(back["w"]).double() - original.double()).abs().max()
    assert error <= {"bfloat16": 3 / 256, "float16": 3 / 2048, "int8": 3 / 127 * 0.51 + 3 / 256}[cast]


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=50))
@settings(deadline=None)
def test_int8_is_off_by_half_a_step_at_most(values: list[float]) -> None:
    original = torch.tensor(values)
    back = dense(round_trip({"w": original}, "int8")["w"])
    step = float(original.abs().max()) / 127
    assert (back.double() - original.double()).abs().max() <= 0.5001 * step


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_values_are_refused_by_int8_and_kept_otherwise(bad: float) -> None:
    tensor = torch.tensor([1.0, bad])
    with pytest.raises(KnowledgeError, match="'w' holds values that are not finite"):
        encode_answer(params({"w": tensor}), **ME, cast="int8")
    for cast in ("", "bfloat16", "float16"):
        assert torch.equal(dense(round_trip({"w": tensor}, cast)["w"]).nan_to_num(), tensor.nan_to_num())


def test_a_cast_that_would_make_infinities_is_refused() -> None:
    with pytest.raises(KnowledgeError, match="too large for float16"):
        encode_answer(params({"w": torch.tensor([70000.0])}), **ME, cast="float16")


def test_unknown_casts_are_refused_before_anything_is_sent() -> None:
    with pytest.raises(KnowledgeError, match="bfloat16, float16, int8"):
        encode_answer(params({}), **ME, cast="int4")


# ---------------------------------------------------------------- questions, answers


def outputs(**changes: Any) -> Outputs:
    tensors = {"logits": torch.randn(3, 10), "feature": torch.randn(3, 4, 2, 2), "label": torch.tensor([1, 2, 3])}
    made: dict[str, Any] = {
        "dataset": "public", "fingerprint": "f", "ids": torch.tensor([5, 3, 9]), "tensors": tensors, "version": 4,
    }  # fmt: skip
    return Outputs(**(made | changes))


def test_a_question_comes_out_as_it_went_in() -> None:
    select: dict[str, Json] = {"layers": ["penult"], "k": 3, "deep": {"a": [None, True, 0.5, "ü"]}}
    query = Query(want="outputs", select=select, have=0, have_session="s0", at=12, cast="int8")
    for brings in (None, outputs(), params({"w": torch.ones(2)})):
        message = travelled(encode_question(Question(query, brings), **ME))
        assert (message.header.sender, message.header.session, message.header.strategy) == (ADA, "s1", "pairwise")
        back = decode_question(message)
        assert back.query == query
        assert type(back.brings) is type(brings)


def test_absent_versions_stay_absent() -> None:
    back = decode_question(travelled(encode_question(Question(Query(want="nothing")), **ME)))
    assert back == Question(Query(want="nothing"))


def test_outputs_come_out_as_they_went_in() -> None:
    original = outputs()
    back = decode_answer(travelled(encode_answer(original, **ME)))
    assert isinstance(back, Outputs)
    assert (back.dataset, back.fingerprint, back.version) == ("public", "f", 4)
    assert torch.equal(back.ids, original.ids)
    assert all(same_bits(back.tensors[name], original.tensors[name]) for name in original.tensors)


@pytest.mark.parametrize("answer", [NotModified(9), Refusal(RefusalReason.UNFIT, "another layer")])
def test_answers_without_knowledge(answer: Answer) -> None:
    message = travelled(encode_answer(answer, **ME))
    assert message.body == ()
    assert decode_answer(message) == answer


def test_a_reason_of_a_newer_release_reads_as_other() -> None:
    message = encode_answer(Refusal(RefusalReason.BUSY, "no"), **ME)
    message.header.refusal.reason = "tuesday"
    assert decode_answer(message) == Refusal(RefusalReason.OTHER, "no")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"ids": torch.tensor([1, 2, 1])}, "unique"),
        ({"ids": torch.tensor([1, 2])}, "for 2 sample ids"),
        ({"ids": torch.tensor([1.0, 2.0, 3.0])}, "int64"),
        ({"ids": torch.tensor([[1], [2], [3]])}, "int64"),
        ({"tensors": {"logits": torch.tensor(1.0)}}, "logits"),
        ({"tensors": {"ids": torch.ones(3)}}, "own name"),
    ],
)
def test_outputs_that_do_not_fit_their_ids_are_not_sent(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(KnowledgeError, match=match):
        encode_answer(outputs(**changes), **ME)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, 2).to_sparse(),
        Sparse((3,), torch.tensor([1, 0]), torch.ones(2)),
        Sparse((3,), torch.tensor([1, 1]), torch.ones(2)),
        Sparse((3,), torch.tensor([3]), torch.ones(1)),
        Sparse((3,), torch.tensor([-1]), torch.ones(1)),
        Sparse((3,), torch.tensor([1]), torch.ones(2)),
        Sparse((3,), torch.tensor([1.0]), torch.ones(1)),
    ],
)
def test_what_cannot_be_sent_is_said_by_name(tensor: Tensor | Sparse) -> None:
    with pytest.raises(KnowledgeError, match="'w'"):
        encode_answer(params({"w": tensor}), **ME)


# ---------------------------------------------------------------- select


def nested(depth: int) -> dict[str, Json]:
    value: dict[str, Json] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def ask(select: dict[str, Json], limits: Limits | None = None) -> Message:
    return encode_question(Question(Query(want="params", select=select)), **ME, limits=limits)


def test_select_is_canonical() -> None:
    assert ask({"b": 1, "a": [1, 2]}).header.query.select == b'{"a":[1,2],"b":1}'


def test_select_may_be_as_deep_as_the_limit_and_no_deeper() -> None:
    most = Limits().select_depth
    assert decode_question(ask(nested(most))).query.select == nested(most)
    with pytest.raises(KnowledgeError, match="deep"):
        ask(nested(most + 1))


def test_select_that_holds_itself_or_is_no_json_is_not_sent() -> None:
    loop: dict[str, Json] = {}
    loop["again"] = loop
    for bad in (loop, {"x": float("nan")}, {"x": object()}, {"x": "y" * 70_000}):
        with pytest.raises(KnowledgeError, match="select"):
            ask(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"[" * 60_000, Oversized),
        (b'{"a":' * 17 + b"1" + b"}" * 17, Oversized),
        (b'{"a":"' + b"x" * 70_000 + b'"}', Oversized),
        (b"[]", Corrupt),
        (b"{", Corrupt),
        (b"\xff", Corrupt),
        (b'{"a":NaN}', Corrupt),
        (b'{"a":' + b"9" * 5000 + b"}", Corrupt),
        (b'{"a":"\\ud800"}', Corrupt),
    ],
)
def test_hostile_select_is_refused(data: bytes, error: type[WireError]) -> None:
    message = ask({})
    message.header.query.select = data
    with pytest.raises(error):
        decode_question(message)


def test_brackets_in_strings_do_not_nest() -> None:
    select: dict[str, Json] = {"a": '[[[[[[[[[[[[[[[[[[[[{{{"\\', "b": "\\"}
    assert decode_question(ask(select)).query.select == select


# ---------------------------------------------------------------- lies


def told(tensors: Mapping[str, Tensor | Sparse], **changes: Any) -> Message:
    """A message whose first tensor's line was tampered with; the sizes still add up."""
    message = encode_answer(params(tensors), **ME)
    for name, value in changes.items():
        setattr(message.header.tensors[0], name, value)
    return message


def with_body(message: Message, *parts: bytes) -> Message:
    return Message(message.header, tuple(memoryview(part) for part in parts))


@pytest.mark.parametrize(
    ("message", "match"),
    [
        (with_body(told({"w": sparse_of(800, 2)}), bytes(8), b"\x05\0\0\0\x03\0\0\0"), "do not rise"),
        (with_body(told({"w": sparse_of(800, 2)}), bytes(8), b"\x05\0\0\0\x20\x03\0\0"), "leave its shape"),
        (with_body(told({"w": sparse_of(800, 2)}), bytes(8), b"\xff\xff\xff\xff\x03\0\0\0"), "leave its shape"),
        (with_body(told({"w": sparse_of(12, 3)}), bytes(12), b"\xff\x00"), "more than its 3"),
        (with_body(told({"w": sparse_of(12, 3)}), bytes(12), b"\x01\x00"), "marks 1 values"),
        (with_body(told({"w": sparse_of(12, 3)}), bytes(12), b"\x03\x80"), "beyond its shape"),
        (with_body(told({"w": torch.zeros(2, dtype=torch.bool)}), b"\x01\x02"), "bool"),
        (with_body(told({"w": torch.zeros(4)}), bytes(15)), "the body ends"),
    ],
)
def test_a_lying_body_is_corrupt(message: Message, match: str) -> None:
    with pytest.raises(Corrupt, match=match):
        decode_answer(message)


def without(message: Message, *fields: str) -> Message:
    for field in fields:
        message.header.ClearField(field)
    return message


def test_messages_of_the_wrong_kind_are_corrupt() -> None:
    question, answer = ask({}), encode_answer(NotModified(1), **ME)
    for wrong in (question, without(encode_answer(NotModified(1), **ME), "not_modified")):
        with pytest.raises(Corrupt, match="not an answer"):
            decode_answer(wrong)
    with pytest.raises(Corrupt, match="not a question"):
        decode_question(answer)
    answer.header.refusal.reason = "busy"
    with pytest.raises(Corrupt, match="not_modified and refusal"):
        decode_answer(answer)


def test_unknown_wants_casts_and_kinds_are_corrupt() -> None:
    for field, value in (("want", "everything"), ("cast", "int4")):
        message = ask({})
        setattr(message.header.query, field, value)
        with pytest.raises(Corrupt, match=value):
            decode_question(message)
    message = encode_answer(params({}), **ME)
    message.header.knowledge.ClearField("params")
    with pytest.raises(Corrupt, match="kind"):
        decode_answer(message)


@pytest.mark.parametrize("name", ["ids", "logits"])
def test_received_outputs_must_fit_their_ids(name: str) -> None:
    message = encode_answer(outputs(), **ME)
    line = next(tensor for tensor in message.header.tensors if tensor.name == name)
    line.shape[:] = [1, *line.shape]
    with pytest.raises(Corrupt, match=r"int64|shape"):
        decode_answer(message)
    line.name = "other"
    with pytest.raises(Corrupt):
        decode_answer(message)
