"""What every strategy must keep to, whatever it teaches (algorithms.md 9.1), and how strategies are found by name."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any

import pytest
import torch

from peerlearn import strategies
from peerlearn.errors import ConfigError, KnowledgeError, RefusalReason
from peerlearn.knowledge import Json, Outputs, Params, Query, Question, Refusal, Sparse
from peerlearn.learning.learner import Learner
from peerlearn.schedule import Local, Schedule, Transfer
from peerlearn.strategies import registry
from peerlearn.strategies.admm.strategy import AdmmGossip
from peerlearn.strategies.auto.logit_adjustment import AdjustedLoss
from peerlearn.strategies.auto.strategy import Auto
from peerlearn.strategies.base import Asked, Strategy
from peerlearn.strategies.clue.strategy import Clue
from peerlearn.strategies.distillation import Distillation
from peerlearn.strategies.fedavg import FedAvg, FedAvgShared
from peerlearn.strategies.gossip import Gossip
from peerlearn.strategies.isolated import Isolated, IsolatedBalanced
from peerlearn.strategies.pairwise.strategy import Pairwise
from peerlearn.testing import (
    CLASSES,
    Member,
    Normed,
    bits,
    conformance,
    everything,
    received,
    snapshot,
    tiny_card,
    tiny_data,
    tiny_id,
    tiny_learner,
    tiny_model,
    weights,
)
from peerlearn.types import Exposure, Span, epochs, steps
from tests.support import cloned, clue, fedgkt, mhd

NAMES = ("amber", "birch", "cedar")
PUBLIC = tiny_data(samples=40, seed=77).unlabelled("public")

MAKERS: dict[str, Callable[[], Strategy]] = {
    "isolated": Isolated,
    "distillation": Distillation,
    "distillation-mse": lambda: Distillation(loss="mse", alpha=0.3),
    "distillation-outputs": lambda: Distillation(via="outputs"),
    "pairwise": Pairwise,
    "pairwise-in-joint": lambda: Pairwise(mix="in", combine="joint"),
    "pairwise-sequence-rest": lambda: Pairwise(combine="sequence", rest=True),
    "pairwise-layer": lambda: Pairwise(teacher="layer"),
    "pairwise-persist-step": lambda: Pairwise(persist=True, commit="step", map_lr=1e-5),
    "auto": Auto,
    "auto-outputs": lambda: Auto(via="outputs"),
}
ASKING = [name for name in MAKERS if name != "isolated"]
BY_OUTPUTS = ["distillation-outputs", "auto-outputs"]
KEEPING = [name for name in ASKING if name != "auto"]
"""Those that learn anew from what they keep; an average uses each version of a model once, and takes no steps."""


def member(name: str, make: Callable[[], Strategy], seed: int, *, normed: bool = True) -> tuple[str, Learner, Strategy]:
    model = Normed(seed=0) if normed else tiny_model()
    learner = tiny_learner(seed, model=model, public_sets=[PUBLIC])
    strategy = make()
    strategy.check(learner)
    return name, learner, strategy


def trio(make: Callable[[], Strategy], *, normed: bool = True) -> list[tuple[str, Learner, Strategy]]:
    made = [member(name, make, seed, normed=normed) for seed, name in enumerate(NAMES)]
    for _, learner, _ in made:
        learner.fit(epochs(3))
    return made


@pytest.fixture(params=MAKERS)
def make(request) -> Callable[[], Strategy]:
    return MAKERS[request.param]


@pytest.fixture(params=ASKING)
def make_asking(request) -> Callable[[], Strategy]:
    return MAKERS[request.param]


@pytest.fixture(params=KEEPING)
def make_keeping(request) -> Callable[[], Strategy]:
    return MAKERS[request.param]


# ---- what any strategy must pass (rows 2 to 5, 8 and 10): the suite that third parties run


def hub_and_peers() -> list[Member]:
    hub = ("hub", tiny_learner(0), FedAvg(role="hub", cohort=2))
    return [
        hub,
        *((name, tiny_learner(seed), FedAvg(role="peer", hub="hub")) for seed, name in enumerate(NAMES[:2], 1)),
    ]


def with_a_shared_subset() -> list[Member]:
    subset = tiny_data(samples=40, seed=7).unlabelled("shared")
    return [(name, tiny_learner(seed, public_sets=[subset]), FedAvgShared()) for seed, name in enumerate(NAMES)]


def edges_and_hub() -> list[Member]:
    edges = [(name, fedgkt.edge_learner(seed), fedgkt.edge_of()) for seed, name in enumerate(NAMES[:2], 1)]
    return [("hub", fedgkt.hub_learner(), fedgkt.hub_of(edges=2)), *edges]


def clones() -> list[Member]:
    return [(name, *cloned.made_of(name)) for name in cloned.TURNS]


def about_to_drift() -> list[Member]:
    made = [(name, learner, Clue(shows_percent=100)) for name, learner in clue.learners().items()]
    for _, learner, strategy in made:
        strategy.local(learner, steps(clue.QUIET - 1))
    return list(made)


def headed() -> list[Member]:
    return [(name, mhd.mhd_learner(*about), mhd.small_mhd()) for name, about in mhd.CLASSES_OF.items()]


BY_ROLE: dict[str, tuple[Callable[[], list[Member]], int]] = {
    "fedavg-hub": (hub_and_peers, 3),
    "fedavg-shared": (with_a_shared_subset, 2),
    "fedgkt": (edges_and_hub, 3),
    "cloned": (clones, 4),
    "clue": (about_to_drift, 6),
    "mhd": (headed, 3),
}
"""Methods with roles, models or data of their own: their peers, and rounds within which they learn from one another."""
ALIKE: dict[str, Callable[[], Strategy]] = {
    **{name: MAKERS[name] for name in MAKERS if not name.startswith(("distillation-mse", "pairwise-"))},
    "isolated-balanced": IsolatedBalanced,
    "fedavg": FedAvg,
    "gossip": Gossip,
    "admm-gossip": AdmmGossip,
}
CHECKS = {
    f"{name}-{check}": check
    for name, checks in [
        *((name, conformance.strategy(make)) for name, make in ALIKE.items()),
        *((name, conformance.strategy(peers=peers, rounds=rounds)) for name, (peers, rounds) in BY_ROLE.items()),
    ]
    for check in checks
}


@pytest.mark.parametrize("name", CHECKS)
def test_it_conforms(name: str) -> None:
    CHECKS[name]()


def test_every_registered_strategy_goes_through_the_suite() -> None:
    checked = {*ALIKE, *BY_ROLE}
    assert set(strategies.names()) <= checked


# ---- row 3: absorbing twice is absorbing once


def test_row_3_absorb_is_idempotent_and_keeps_the_latest(make_asking: Callable[[], Strategy]) -> None:
    amber, birch, _ = trio(make_asking)
    old = received(amber, birch, version=1)
    birch[1].fit(epochs(1))
    new = received(amber, birch, version=2)
    amber[2].absorb(amber[1], [old])
    once = bits(amber[2].state_dict())
    amber[2].absorb(amber[1], [old])
    assert bits(amber[2].state_dict()) == once
    amber[2].absorb(amber[1], [new])
    latest = bits(amber[2].state_dict())
    assert latest != once
    amber[2].absorb(amber[1], [old])
    assert bits(amber[2].state_dict()) == latest
    restarted = replace(old, sender=replace(old.sender, session="s2"))
    amber[2].absorb(amber[1], [restarted])
    assert bits(amber[2].state_dict()) not in (once, latest)


def test_a_question_names_the_version_held_of_this_session(make_keeping: Callable[[], Strategy]) -> None:
    amber, birch, _ = trio(make_keeping)
    assert _asked(amber, birch).have is None
    amber[2].absorb(amber[1], [received(amber, birch, version=4)])
    assert (_asked(amber, birch).have, _asked(amber, birch).have_session) == (4, "s1")
    assert _asked(amber, birch, session="s2").have is None
    amber[2].forget(tiny_id("birch"))
    assert _asked(amber, birch).have is None


def _asked(me: tuple[str, Learner, Strategy], other: tuple[str, Learner, Strategy], session: str = "s1") -> Query:
    question = me[2].ask(me[1], tiny_card(*other, session=session))
    assert isinstance(question, Question)
    return question.query


# ---- row 4: what does not fit is refused, and nothing has changed


def _spoilt(tensor: torch.Tensor) -> list[tuple[torch.Tensor | Sparse, str]]:
    lame = tensor.clone()
    lame.view(-1)[-1] = torch.nan
    endless = torch.full_like(tensor, torch.inf)
    sparse = Sparse(tuple(tensor.shape), torch.tensor([0]), tensor.reshape(-1)[:1])
    return [
        (lame, "not finite"),
        (endless, "not finite"),
        (tensor.double(), "float64"),
        (tensor.reshape(-1)[:-1], "shape"),
        (sparse, "sparse"),
    ]


@pytest.mark.parametrize("name", [name for name in ASKING if name not in BY_OUTPUTS])
def test_row_4_foreign_params_are_refused_and_change_nothing(name: str) -> None:
    amber, birch, cedar = trio(MAKERS[name])
    good = received(amber, birch)
    assert isinstance(good.knowledge, Params)
    before = everything(amber[1]), bits(amber[2].state_dict())
    tensors = dict(good.knowledge.tensors)
    weight = tensors["penult.weight"]
    assert isinstance(weight, torch.Tensor)
    bad = [(replace(good.knowledge, tensors={**tensors, "penult.weight": t}), why) for t, why in _spoilt(weight)]
    bad += [
        (replace(good.knowledge, tensors={k: v for k, v in tensors.items() if k != "penult.bias"}), "is missing"),
        (replace(good.knowledge, tensors={**tensors, "nose": torch.zeros(1)}), "'nose' is not part"),
        (replace(good.knowledge, architecture="0" * 64), "architecture"),
    ]
    huge = {k: v * 1e38 if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in tensors.items()}
    bad.append((replace(good.knowledge, tensors=huge), "times as large"))
    also_good = received(amber, cedar)
    for knowledge, why in bad:
        with pytest.raises(KnowledgeError, match=why):
            amber[2].absorb(amber[1], [also_good, replace(good, knowledge=knowledge)])
        assert (everything(amber[1]), bits(amber[2].state_dict())) == before


@pytest.mark.parametrize("name", BY_OUTPUTS)
def test_row_4_foreign_outputs_are_refused_and_change_nothing(name: str) -> None:
    amber, birch, _ = trio(MAKERS[name])
    good = received(amber, birch)
    assert isinstance(good.knowledge, Outputs)
    logits = good.knowledge.tensors["logits"]
    before = everything(amber[1]), bits(amber[2].state_dict())
    nan = logits.clone()
    nan[3, 1] = torch.nan
    changes: list[tuple[dict[str, Any], str]] = [
        ({"fingerprint": "0" * 64}, "does not hold"),
        ({"ids": good.knowledge.ids + 1}, "ids came"),
        ({"ids": good.knowledge.ids[:5], "tensors": {"logits": logits[:5]}}, "ids came"),
        ({"tensors": {}}, "nothing came"),
        ({"tensors": {"logits": logits, "feature": logits}}, "feature, logits came"),
        ({"tensors": {"logits": logits[:, :2]}}, "floats"),
        ({"tensors": {"logits": logits.long()}}, "int64"),
        ({"tensors": {"logits": nan}}, "not finite"),
    ]
    for change, why in changes:
        with pytest.raises(KnowledgeError, match=why):
            amber[2].absorb(amber[1], [replace(good, knowledge=replace(good.knowledge, **change))])
        assert (everything(amber[1]), bits(amber[2].state_dict())) == before


SELECTS: list[dict[str, Json]] = [
    {"layers": ["nose"]},
    {"layers": []},
    {"layers": "penult"},
    {"layers": [3]},
    {"nonsense": 1},
    {"dataset": "public", "fingerprint": "0", "ids": None},
    {"fingerprint": PUBLIC.fingerprint, "ids": [0, 0]},
    {"fingerprint": PUBLIC.fingerprint, "ids": []},
    {"fingerprint": PUBLIC.fingerprint, "ids": [True]},
    {"fingerprint": PUBLIC.fingerprint, "ids": [2**70]},
    {"fingerprint": PUBLIC.fingerprint, "ids": [40]},
    {"fingerprint": PUBLIC.fingerprint, "ids": list(range(41))},
    {"fingerprint": [], "ids": {}},
]


def test_row_4_odd_questions_are_refused_with_a_reason(make: Callable[[], Strategy]) -> None:
    name, learner, strategy = member("birch", make, 1)
    shown, card = snapshot(learner, strategy), tiny_card(name, learner, strategy)
    queries = [Query(want="params", select=select) for select in SELECTS]
    queries += [Query(want="outputs", select=select) for select in SELECTS]
    for query in queries:
        answer = strategy.answer(shown, Asked(card, Question(query)))
        assert isinstance(answer, Refusal), query
        assert answer.reason in (RefusalReason.STRATEGY, RefusalReason.UNFIT)
        assert answer.detail


# ---- rows 6, 8, 9, 11


def test_row_6_a_lost_provider_is_left_out(make_asking: Callable[[], Strategy]) -> None:
    amber, birch, cedar = trio(make_asking)
    alone, _, _ = trio(make_asking)
    amber[2].absorb(amber[1], [received(amber, birch), received(amber, cedar)])
    alone[2].absorb(alone[1], [received(alone, birch)])
    amber[2].forget(tiny_id("cedar"))
    assert amber[2].transfer(amber[1], steps(3)).providers == (tiny_id("birch"),)
    alone[2].transfer(alone[1], steps(3))
    assert weights(amber[1]) == weights(alone[1])


def test_row_8_nothing_crosses_that_is_not_exposed(make: Callable[[], Strategy]) -> None:
    name, learner, strategy = member("birch", make, 1)
    shown = snapshot(learner, strategy)
    by_query = {
        Exposure.PARAMS_FULL: Query(want="params"),
        Exposure.PARAMS_LAYERS: Query(want="params", select={"layers": ["penult"]}),
        Exposure.PUBLIC_OUTPUTS: Query(want="outputs", select={"fingerprint": PUBLIC.fingerprint, "ids": None}),
    }
    for exposure, query in by_query.items():
        answer = strategy.answer(shown, Asked(tiny_card(name, learner, strategy), Question(query)))
        assert isinstance(answer, Refusal) != (exposure in strategy.exposes)
        if isinstance(answer, Params):
            assert set(answer.tensors) <= set(learner.state)
        elif isinstance(answer, Outputs):
            assert set(answer.tensors) == {"logits"}
            assert answer.dataset == "public"


def test_row_9_without_links_it_is_plain_local_training(make: Callable[[], Strategy]) -> None:
    _, learner, strategy = member("amber", make, 0)
    plain = tiny_learner(0, model=Normed(), public_sets=[PUBLIC])
    before = everything(learner)
    assert strategy.transfer(learner, epochs(1)).steps == 0
    assert everything(learner) == before
    strategy.local(learner, epochs(2))
    plain.fit(epochs(2), loss=AdjustedLoss(plain, strategy.smoothing) if isinstance(strategy, Auto) else None)
    assert weights(learner) == weights(plain)
    x = tiny_data().x
    torch.testing.assert_close(
        strategy.predict(learner, x), plain.predict(x), rtol=1e-5 * isinstance(strategy, Auto), atol=0
    )


def test_row_11_running_statistics_move_only_where_the_model_trains(make_keeping: Callable[[], Strategy]) -> None:
    amber, birch, _ = trio(make_keeping)
    amber[2].absorb(amber[1], [received(amber, birch)])
    before = {name: b.clone() for name, b in amber[1].model.named_buffers()}
    amber[2].transfer(amber[1], steps(2))
    changed = {name for name, b in amber[1].model.named_buffers() if not torch.equal(b, before[name])}
    trains = not isinstance(amber[2], Pairwise) or amber[2].rest
    assert changed == (set(before) if trains else set())


def test_training_spans_are_what_the_schedule_says(make: Callable[[], Strategy]) -> None:
    strategy = make()
    assert isinstance(strategy.schedule, Schedule)
    if strategy.needs or strategy.name in ("distillation", "auto"):
        assert strategy.schedule.exchanges
        spans = [phase.span for phase in strategy.schedule.cycle if isinstance(phase, Local | Transfer)]
        assert spans == [Span(1, "epochs"), Span(1, "epochs")]
    else:
        assert strategy.schedule.cycle == (Local(epochs(2)),)


# ---- by name


def test_strategies_are_made_by_name() -> None:
    assert {"isolated", "distillation", "pairwise"} <= set(strategies.names())
    made = strategies.make("pairwise", alpha=0.7, layer="fc")
    assert isinstance(made, Pairwise)
    assert (made.alpha, made.layer) == (0.7, "fc")
    assert strategies.make(made) is made


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("pairwize", {}, "did you mean 'pairwise'"),
        ("xyz", {}, "there is no strategy 'xyz', only .*distillation.*isolated.*pairwise"),
        ("distillation", {"alfa": 1}, "did you mean 'alpha'"),
        ("distillation", {"alpha": 2}, "alpha must lie between 0 and 1"),
        ("distillation", {"temperature": 0}, "temperature must be positive"),
        ("distillation", {"loss": "l1"}, "'l1' is not one of kl, mse"),
        ("distillation", {"via": "post"}, "not one of auto, params, outputs"),
        ("isolated", {"passes": 0}, "passes"),
        ("pairwise", {"combine": "sum"}, "'sum' is not one of 'mean', 'joint', 'sequence'"),
        ("pairwise", {"map_lr": 0}, "map_lr"),
        ("pairwise", {"guard": -1}, "guard"),
        (Isolated(), {"passes": 3}, "made already"),
    ],
)
def test_a_wrong_name_or_option_is_one_sentence(name, options, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        strategies.make(name, **options)


def test_third_parties_come_by_entry_point_and_cannot_shadow_ours(monkeypatch) -> None:
    points = [
        EntryPoint("pairwise", "zzz_elsewhere:Thief", registry.GROUP),
        EntryPoint("pairwise", "peerlearn.strategies.pairwise:Pairwise", registry.GROUP),
        EntryPoint("broken", "peerlearn.strategies.nowhere:Nothing", registry.GROUP),
        EntryPoint("theirs", "peerlearn.strategies.isolated:Isolated", registry.GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    assert strategies.names() == ("broken", "pairwise", "theirs")
    assert isinstance(strategies.make("pairwise"), Pairwise)
    assert isinstance(strategies.make("theirs"), Isolated)
    with pytest.raises(ConfigError, match=r"'broken' .* cannot be imported"):
        strategies.make("broken")


def test_names_can_be_listed_without_torch() -> None:
    code = "import sys; from peerlearn import strategies; strategies.names(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_number_of_classes_is_part_of_the_fit() -> None:
    four = member("amber", Distillation, 0)
    data = tiny_data(classes=5)
    five = tiny_learner(data=data, model=tiny_model(classes=5), classes=5, public_sets=[PUBLIC])
    why = four[2].misfit(four[1], tiny_card("birch", five, Distillation()))
    assert why is not None
    assert "5 classes" in why
    assert str(CLASSES) in why
