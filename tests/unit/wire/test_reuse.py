"""What need not travel: tensors that the consumer holds, and all but the most changed values of those it half holds."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peerlearn.casts import check_cast, top_share
from peerlearn.config import Limits
from peerlearn.errors import Changed, ConfigError, Corrupt, Oversized
from peerlearn.events import Fetched, FetchFailed
from peerlearn.knowledge import Outputs, Params, Query, Question, Sparse
from peerlearn.learning.learner import Learner
from peerlearn.orchestrator.consumer.held_tensors import REST, HeldTensors
from peerlearn.strategies.distillation import Distillation
from peerlearn.testing import PeerNetwork, bits, blob_model, blobs, gathered
from peerlearn.types import PeerId
from peerlearn.wire.codec import decode_answer, decode_question, encode_answer, encode_question
from peerlearn.wire.compress import LinkEstimate, Packer
from peerlearn.wire.frames import Assembler, Message, blocks, parse, serialize
from peerlearn.wire.reuse.deltas import Bases, most_changed, put
from peerlearn.wire.reuse.digests import Digests, digest
from peerlearn.wire.reuse.negotiation import Held, Reuse, Terms, terms_of
from peerlearn.wire.tensors import all_to_wire

ME: Mapping[str, Any] = {"sender": PeerId("ab" * 16), "session": "s1", "strategy": "distillation"}
PROVIDER = PeerId("cd" * 16)
Tensors = Mapping[str, Tensor | Sparse]


def params(tensors: Tensors, version: int = 1) -> Params:
    return Params(tensors=tensors, architecture="a", version=version)


def travelled(message: Message) -> Message:
    """Over the wire and back, byte by byte."""
    assembler = Assembler()
    for frame in blocks(message, Packer(LinkEstimate())):
        whole = assembler.feed(parse(serialize(frame)))
    assert whole is not None
    return whole


class Pair:
    """A provider and a consumer that exchange versions of something."""

    def __init__(self, cast: str = "", reuse: Reuse | None = None) -> None:
        self.query = Query(want="params", cast=cast)
        self.reuse = reuse or Reuse(1 << 30)
        self.held: dict[bytes, Tensor | Sparse] = {}

    def exchange(self, knowledge: Params | Outputs) -> tuple[Params | Outputs, Message]:
        question = travelled(encode_question(Question(self.query), **ME, held=self.held))
        terms, cast = terms_of(question.header.query), decode_question(question).query.cast
        assert terms is not None
        line = partial(self.reuse.all_to_wire, terms)
        reply = travelled(encode_answer(knowledge, **ME, cast=cast, lines=line))
        got = decode_answer(reply, held=self.held)
        assert isinstance(got, Params | Outputs)
        self.held = {line.digest: got.tensors[line.name] for line in reply.header.tensors if line.name in got.tensors}
        return got, reply


def state(seed: int, **shapes: tuple[int, ...]) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


TRUNK = state(0, **{"trunk.weight": (300, 40), "trunk.bias": (40,)})


# ---------------------------------------------------------------- tensors that are held


@pytest.mark.parametrize("cast", ["", "bfloat16", "float16", "int8"])
def test_what_has_not_changed_is_not_sent_again_and_comes_to_the_same_bits(cast: str) -> None:
    pair = Pair(cast)
    first, _ = pair.exchange(params({**TRUNK, **state(1, head=(40, 10))}))
    tuned = {**{name: t.clone() for name, t in TRUNK.items()}, **state(2, head=(40, 10))}
    short, reply = pair.exchange(params(tuned, version=2))
    whole = decode_answer(travelled(encode_answer(params(tuned, version=2), **ME, cast=cast)))
    assert isinstance(whole, Params)
    assert bits(dict(short.tensors)) == bits(dict(whole.tensors))
    assert short.version == 2
    assert list(short.tensors) == list(tuned)
    assert reply.header.body_bytes == 400 * {"": 4, "int8": 1}.get(cast, 2)
    assert short.tensors["trunk.weight"] is first.tensors["trunk.weight"]


def test_what_a_new_session_still_has_in_common_is_not_sent_again() -> None:
    pair = Pair()
    pair.exchange(params(TRUNK))
    pair.reuse = Reuse(1 << 20)  # the provider was started again
    _, reply = pair.exchange(params({name: t.clone() for name, t in TRUNK.items()}))
    assert reply.header.body_bytes == 0


def test_sparse_tensors_and_outputs_are_reused_too() -> None:
    some = Sparse((50, 50), torch.tensor([3, 700, 2400]), torch.randn(3))
    pair = Pair()
    pair.exchange(params({"s": some}))
    again, reply = pair.exchange(params({"s": Sparse((50, 50), some.indices.clone(), some.values.clone())}))
    back = again.tensors["s"]
    assert isinstance(back, Sparse)
    assert torch.equal(back.indices, some.indices)
    assert torch.equal(back.values, some.values)
    assert reply.header.body_bytes == 0
    moved = Sparse((50, 50), some.indices + 1, some.values)
    assert pair.exchange(params({"s": moved}))[1].header.body_bytes > 0

    logits = torch.randn(60, 10)
    both = Pair()
    ids = torch.arange(60)
    both.exchange(Outputs(dataset="d", fingerprint="f", ids=ids, tensors={"logits": logits}, version=1))
    new, reply = both.exchange(
        Outputs(dataset="d", fingerprint="f", ids=ids, tensors={"logits": logits, "more": logits + 1}, version=2)
    )
    assert bits(dict(new.tensors)) == bits({"logits": logits, "more": logits + 1})
    assert reply.header.body_bytes == ids.nbytes + logits.nbytes


@pytest.mark.parametrize("other", [TRUNK["trunk.weight"] + 1e-7, TRUNK["trunk.weight"].reshape(40, 300)])
def test_a_digest_tells_values_shapes_and_dtypes_apart(other: Tensor) -> None:
    weight = TRUNK["trunk.weight"]
    assert digest(weight) == digest(weight.clone())
    assert digest(weight) == digest(weight.t().contiguous().t())
    assert len({digest(weight), digest(other), digest(weight.view(torch.int32))}) == 3
    assert digest(torch.tensor([0.0])) != digest(torch.tensor([-0.0]))


def test_a_snapshot_is_hashed_once_and_forgotten_with_it() -> None:
    digests, tensor = Digests(), torch.randn(100)
    first = digests.of(tensor)
    assert digests.of(tensor) == first == digest(tensor)
    tensor[3] = 7
    assert digests.of(tensor) == digest(tensor) != first
    assert len(digests) == 1
    del tensor
    assert len(digests) == 0


# ---------------------------------------------------------------- hostile and older peers


def answered(tensors: Tensors, held: Held) -> Message:
    return encode_answer(params(tensors), **ME, lines=partial(Reuse(0).all_to_wire, Terms(frozenset(held))))


def test_a_query_without_the_new_fields_gets_a_whole_answer_without_names() -> None:
    question = encode_question(Question(Query(want="params", cast="int8")), **ME)
    assert not question.header.query.HasField("held")
    assert terms_of(question.header.query) is None
    answer = encode_answer(params(TRUNK), **ME)
    assert answer.header.body_bytes == sum(t.nbytes for t in TRUNK.values())
    assert not any(line.digest or line.base for line in answer.header.tensors)


def test_a_provider_that_knows_no_names_is_understood() -> None:
    held: Held = {digest(t): t for t in TRUNK.values()}
    got = decode_answer(travelled(encode_answer(params(TRUNK), **ME)), held=held)
    assert isinstance(got, Params)
    assert bits(dict(got.tensors)) == bits(TRUNK)


def test_a_provider_that_knows_no_top_k_gives_whole_answers() -> None:
    question = travelled(encode_question(Question(Query(want="params", cast="topk:0.01")), **ME, held=()))
    assert question.header.query.cast == ""
    assert decode_question(question).query.cast == "topk:0.01"
    got = decode_answer(travelled(encode_answer(params(TRUNK), **ME, cast="topk:0.01")))
    assert isinstance(got, Params)
    assert bits(dict(got.tensors)) == bits(TRUNK)


def test_an_answer_that_builds_on_what_was_not_offered_is_corrupt() -> None:
    held: Held = {digest(t): t for t in TRUNK.values()}
    with pytest.raises(Corrupt, match="does not hold"):
        decode_answer(answered(TRUNK, held), held={})
    with pytest.raises(Corrupt, match="does not hold"):
        decode_question(_asked_with(answered(TRUNK, held)))
    swapped = answered(TRUNK, held)
    first, second = swapped.header.tensors
    first.base, first.digest = second.base, second.digest
    with pytest.raises(Corrupt, match="another shape"):
        decode_answer(swapped, held=held)


def _asked_with(answer: Message) -> Message:
    header = encode_question(Question(Query(want="params")), **ME).header
    header.knowledge.CopyFrom(answer.header.knowledge)
    header.tensors.extend(answer.header.tensors)
    return Message(header)


def test_what_was_changed_meanwhile_is_not_passed_off_as_what_the_provider_holds() -> None:
    held: Held = {digest(t): t.clone() for t in TRUNK.values()}
    answer = answered(TRUNK, held)
    weight = held[digest(TRUNK["trunk.weight"])]
    assert isinstance(weight, Tensor)
    weight[0, 0] += 1
    with pytest.raises(Changed):
        decode_answer(answer, held=held)


def test_names_are_bounded() -> None:
    few = Limits(tensors=2)
    with pytest.raises(Oversized):
        decode_question(encode_question(Question(Query(want="params")), **ME, held=[bytes(16)] * 3), limits=few)
    odd = encode_question(Question(Query(want="params")), **ME, held=[bytes(17)])
    with pytest.raises(Corrupt, match="17 bytes"):
        decode_question(odd)
    for share in (-0.5, 1.5, math.nan):
        strange = encode_question(Question(Query(want="params")), **ME)
        strange.header.query.top = share
        with pytest.raises(Corrupt, match="share"):
            decode_question(strange)
    for field, value in (("digest", b"x"), ("base", b"x" * 17)):
        answer = encode_answer(params(TRUNK), **ME)
        setattr(answer.header.tensors[0], field, value)
        with pytest.raises(Corrupt, match="digest"):
            decode_answer(answer)
    dense = encode_answer(params(TRUNK), **ME)
    dense.header.tensors[0].digest = dense.header.tensors[0].base = bytes(16)
    with pytest.raises(Corrupt, match="builds on another"):
        decode_answer(dense)


def test_the_copy_that_a_delta_is_put_in_counts_against_the_limits() -> None:
    base, pair = torch.zeros(100_000), Pair("topk:0.001")
    pair.exchange(params({"w": base}))
    changed = base.clone()
    changed[:50] = 1
    _, reply = pair.exchange(params({"w": changed}))
    assert reply.header.body_bytes < 1000
    with pytest.raises(Oversized):
        decode_answer(reply, limits=Limits(body_bytes=400_500), held=pair.held)


# ---------------------------------------------------------------- top-k deltas


@pytest.mark.parametrize("cast", ["topk:0", "topk:1.5", "topk:-1", "topk:nan", "topk:", "topk:much", "int4", "topk"])
def test_a_cast_that_there_is_not_is_refused_in_a_sentence(cast: str) -> None:
    with pytest.raises(ConfigError, match="there is no cast to"):
        check_cast(cast)


def test_the_casts_that_there_are() -> None:
    assert [check_cast(cast) for cast in ("", "bfloat16", "int8", "topk:0.25")]
    assert top_share("topk:0.25") == 0.25
    assert top_share("int8") == 0


HARD = [0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e-40, 3e38, -3e38]


@settings(max_examples=40, deadline=None)
@given(
    share=st.floats(0.02, 0.4),
    size=st.integers(256, 700),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 2**31),
    hard=st.lists(st.sampled_from(HARD), max_size=40),
)
def test_a_chain_of_deltas_reaches_a_provider_that_stops_changing(
    share: float, size: int, dtype: torch.dtype, seed: int, hard: list[float]
) -> None:
    draw = torch.Generator().manual_seed(seed)
    pair, model = Pair(f"topk:{share!r}"), torch.randn(size, generator=draw).to(dtype)
    got, _ = pair.exchange(params({"w": model}))
    assert bits(dict(got.tensors)) == bits({"w": model})  # there was nothing yet to build on
    for version in (2, 3):
        before = got.tensors["w"]
        assert isinstance(before, Tensor)
        model = (model.float() + 0.1 * torch.randn(size, generator=draw)).to(dtype)
        model[: len(hard)] = torch.tensor(hard, dtype=torch.float64).to(dtype)
        got, reply = pair.exchange(params({"w": model}, version))
        after = got.tensors["w"]
        assert isinstance(after, Tensor)
        whole = torch.int16 if dtype.itemsize == 2 else torch.int32 if dtype.itemsize == 4 else torch.int64
        moved = after.view(whole) != before.view(whole)
        assert torch.equal(after.view(whole)[moved], model.view(whole)[moved])  # what came is exact
        assert reply.header.tensors[0].stored <= math.ceil(size * share) or not reply.header.tensors[0].base
    for _ in range(math.ceil(1 / share)):
        got, _ = pair.exchange(params({"w": model}, 4))
    assert bits(dict(got.tensors)) == bits({"w": model})
    assert pair.exchange(params({"w": model}, 5))[1].header.body_bytes == 0


def test_the_values_that_have_moved_most_come_first() -> None:
    held = torch.zeros(1000)
    new = held.clone()
    new[:100] = torch.arange(1, 101).float()
    found = most_changed(new, held, 0.01)
    assert found is not None
    assert found.indices.tolist() == list(range(90, 100))
    assert put(found, held).sum() == sum(range(91, 101))
    assert held.sum() == 0
    assert most_changed(new[:200], held[:200], 0.01) is None  # too small to be worth a header
    assert most_changed(new, held, 0.6) is None  # whole is as short


def test_signs_of_zero_and_not_a_numbers_are_reached_too_and_not_sent_twice() -> None:
    pair, zeros = Pair("topk:0.25"), torch.zeros(400)
    pair.exchange(params({"w": zeros}))
    new = -zeros
    new[300:] = math.nan
    for _ in range(4):
        got, reply = pair.exchange(params({"w": new}))
        assert reply.header.tensors[0].stored == 100
    assert bits(dict(got.tensors)) == bits({"w": new})
    new[:10] = 1
    assert pair.exchange(params({"w": new}))[1].header.tensors[0].stored == 10


def test_consumers_of_one_provider_do_not_mix_and_a_forgotten_base_is_made_good() -> None:
    weights = [state(seed, w=(40, 40)) for seed in range(4)]
    reuse = Reuse(1 << 20)
    one, two = Pair("topk:0.05", reuse), Pair("topk:0.05", reuse)
    one.exchange(params(weights[0]))
    two.exchange(params(weights[1]))
    for pair in (one, two):  # decoding compares digests: a mix would raise
        assert pair.exchange(params(weights[2]))[1].header.tensors[0].base
    small = Reuse(1000)
    one.reuse = small
    got, reply = one.exchange(params(weights[3]))
    assert not reply.header.tensors[0].base
    assert bits(dict(got.tensors)) == bits(weights[3])


def test_what_a_provider_keeps_for_deltas_is_bounded() -> None:
    bases = Bases(10_000)
    for version in range(10):
        tensor = torch.full((1000,), float(version))
        bases.keep("w", digest(tensor), tensor)
        assert bases.nbytes <= 10_000
    latest, older = torch.full((1000,), 9.0), torch.full((1000,), 8.0)
    found = bases.find("w", {digest(latest), digest(older)}, latest)
    assert found is not None
    assert found[0] == digest(latest)
    assert bases.find("w", {digest(torch.zeros(1000))}, latest) is None
    assert bases.find("v", {digest(latest)}, latest) is None


# ---------------------------------------------------------------- what is held, and for how long


class Taking:
    """A consumer's holdings, fed by a provider's answers."""

    def __init__(self, most: int = 1 << 30) -> None:
        self.holdings, self.query, self.reuse = HeldTensors(most), Query(want="params"), Reuse(0)

    def take(self, tensors: Tensors) -> tuple[bool, int]:
        """Whether names were asked for, and the bytes of the body."""
        offered = self.holdings.offer(PROVIDER, self.query)
        terms = None if offered is None else Terms(frozenset(offered))
        line = all_to_wire if terms is None else partial(self.reuse.all_to_wire, terms)
        reply = travelled(encode_answer(params(tensors), **ME, lines=line))
        got = decode_answer(reply, held=offered)
        assert isinstance(got, Params)
        self.holdings.keep(PROVIDER, self.query, offered, got, reply.header)
        return offered is not None, reply.header.body_bytes


def test_a_model_that_changes_as_a_whole_is_neither_hashed_nor_held() -> None:
    taking = Taking()
    named = [taking.take(state(seed, w=(50, 50)))[0] for seed in range(2 * (REST + 2))]
    assert named == ([True] * 2 + [False] * REST) * 2
    assert taking.holdings.nbytes == 0


def test_what_is_held_is_bounded_and_small_rests_do_not_keep_old_answers_in_memory() -> None:
    taking = Taking()
    many = {f"t{i}": torch.full((1000,), float(i)) for i in range(20)}
    for version in range(40):  # another one changes each time: each answer leaves a view of itself
        many[f"t{version % 20}"] = torch.full((1000,), 100.0 + version)
        taking.take(many)
        assert taking.holdings.nbytes <= 2 * 80_000
    bounded = Taking(most=50_000)
    bounded.take(many)
    assert bounded.holdings.nbytes == 0
    assert bounded.take(many) == (False, 80_000)


def test_a_provider_whose_names_are_false_is_asked_for_everything() -> None:
    taking = Taking()
    taking.take(TRUNK)
    assert taking.holdings.offer(PROVIDER, taking.query)
    taking.holdings.distrust(PROVIDER)
    assert taking.holdings.offer(PROVIDER, taking.query) is None
    assert taking.holdings.offer(PeerId("ef" * 16), taking.query) == {}


# ---------------------------------------------------------------- whole peers


def wide_learner(classes: list[int], seed: int, *, frozen: bool) -> Learner:
    """A trunk of 41,200 values and a head of 804."""
    model = blob_model(200)
    if frozen:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("fc."))
    return Learner(model, blobs(classes, seed), classes=4, seed=seed, batch_size=32)


def fetched(village: PeerNetwork, name: str) -> list[Fetched]:
    return [event for event in village.events[name].events if isinstance(event, Fetched) and not event.not_modified]


@contextmanager
def absorbed(strategy: Distillation) -> Iterator[list[Params]]:
    """What the strategy was given, in order."""
    seen: list[Params] = []
    absorb = strategy.absorb

    def spied(learner: Learner, received: Any) -> None:
        seen.extend(each.knowledge for each in received)
        absorb(learner, received)

    strategy.absorb = spied  # type: ignore[method-assign]
    yield seen


@pytest.mark.parametrize("kind", ["memory", "grpc"])
async def test_a_fine_tuned_model_with_a_frozen_trunk_sends_only_its_head(kind: Any) -> None:
    village, strategy = PeerNetwork(kind), Distillation()
    amber = village.peer("amber", wide_learner([0, 1], 1, frozen=True), strategy=strategy)
    birch = village.peer("birch", wide_learner([2, 3], 2, frozen=True))
    with absorbed(strategy) as seen:
        async with gathered(amber, birch):
            for _ in range(3):
                await birch.run(1)
                await amber.run(1)
            last = {name: tensor.clone() for name, tensor in birch.learner.state.items()}
    exchanges = fetched(village, "amber")
    assert [exchange.body_bytes for exchange in exchanges] == [168_016, 3216, 3216]
    assert all(exchange.received_bytes < 6000 for exchange in exchanges[1:])
    assert bits(dict(seen[-1].tensors)) == bits(last)


async def test_top_k_is_asked_for_with_one_word_and_teaches() -> None:
    village = PeerNetwork()
    amber = village.peer("amber", wide_learner([0, 1], 1, frozen=False), cast="topk:0.02")
    birch = village.peer("birch", wide_learner([2, 3], 2, frozen=False))
    async with gathered(amber, birch):
        for _ in range(5):
            await birch.run(1)
            await amber.run(1)
        x, y = blobs([0, 1, 2, 3], 9)
        accuracy = float((amber.learner.predict(x).argmax(1) == y).float().mean())
    first, *later = [exchange.received_bytes for exchange in fetched(village, "amber")]
    assert first > 168_000
    assert len(later) == 4
    assert max(later) < first / 8
    assert accuracy > 0.55  # without a teacher at most half; lossless it comes to 0.59
    assert not [event for event in village.events["amber"].events if isinstance(event, FetchFailed)]


async def test_a_strategy_that_writes_into_what_it_got_costs_one_more_exchange() -> None:
    village, strategy = PeerNetwork(), Distillation()
    amber = village.peer("amber", wide_learner([0, 1], 1, frozen=True), strategy=strategy)
    birch = village.peer("birch", wide_learner([2, 3], 2, frozen=True))
    with absorbed(strategy) as seen:
        async with gathered(amber, birch):
            await birch.run(1)
            await amber.run(1)
            spoiled = seen[0].tensors["penult.weight"]
            assert isinstance(spoiled, Tensor)
            spoiled.zero_()
            await birch.run(1)
            await amber.run(1)
            last = {name: tensor.clone() for name, tensor in birch.learner.state.items()}
    assert fetched(village, "amber")[-1].body_bytes == 168_016
    assert bits(dict(seen[-1].tensors)) == bits(last)


def test_a_peer_refuses_a_cast_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match="int4"):
        PeerNetwork().peer("amber", wide_learner([0, 1], 1, frozen=False), cast="int4")
