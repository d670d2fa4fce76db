"""The learner: what it refuses, the order of its batches, all or nothing, snapshots, resuming."""

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset, TensorDataset

from peerlearn.errors import KnowledgeError, LearnerError, StateError
from peerlearn.learning import state
from peerlearn.learning.dataset import Unlabelled
from peerlearn.learning.interruption import Diverged, Interrupted
from peerlearn.learning.learner import Learner
from peerlearn.learning.rng import seeded
from peerlearn.learning.sampler import Sampler
from peerlearn.learning.snapshot import Snapshot
from peerlearn.testing import CLASSES, DIMS, Normed, bits, everything, tiny_data, tiny_learner, tiny_model, weights
from peerlearn.types import epochs, steps


class Listed(TorchDataset[tuple[Tensor, int]]):
    """A map-style data set like a vision one: inputs read one by one."""

    def __init__(self, x: Tensor, y: list[int]) -> None:
        self.x, self.y, self.reads = x, y, 0

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        self.reads += 1
        return self.x[row], self.y[row]


class Stream(IterableDataset[tuple[Tensor, int]]):
    def __iter__(self):
        return iter([])


# ---- bad input, one sentence each


def _x(n: int = 8) -> Tensor:
    return torch.zeros(n, DIMS)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ((_x(0), torch.zeros(0).long()), "train_set is empty"),
        (TensorDataset(_x(0), torch.zeros(0).long()), "train_set is empty"),
        (Listed(_x(0), []), "train_set is empty"),
        ((_x(4), torch.zeros(3).long()), "4 inputs but 3 labels"),
        ((_x(4), torch.zeros(4)), "labels must be whole numbers"),
        ((_x(4), torch.zeros(4, 2).long()), "one class index per sample"),
        ((_x(4), torch.tensor([0, 1, 9, 0])), "label of sample 2 is 9, outside 0..3"),
        ((_x(4), torch.tensor([0, -1, 9, 0])), "label of sample 1 is -1"),
        ((_x(3).index_fill(0, torch.tensor(1), torch.nan), torch.zeros(3).long()), "sample 1 holds NaN"),
        ((_x(3).index_fill(0, torch.tensor(2), torch.inf), torch.zeros(3).long()), "sample 2 holds NaN or infinite"),
        ((torch.zeros(4, 3), torch.zeros(4).long()), "does not take inputs of shape"),
        (Stream(), "map-style"),
        ((_x(4), torch.zeros(4).long(), _x(4)), "3 tensors were given"),
        (Listed(_x(3).index_fill(0, torch.tensor(1), torch.nan), [0, 1, 2]), "sample 1 holds NaN"),
        (Listed(_x(4), [0, 7, 0, 0]), "label of sample 1 is 7"),
    ],
)
def test_unusable_data_is_refused_with_one_sentence(data, sentence: str) -> None:
    with pytest.raises(LearnerError, match=sentence) as caught:
        Learner(tiny_model(), data, classes=CLASSES).fit(epochs(1))
    assert "\n" not in str(caught.value).strip()


def test_a_generic_data_set_is_checked_as_it_is_read() -> None:
    data = Listed(_x(40), [0] * 39 + [CLASSES])
    learner = Learner(tiny_model(), data, classes=CLASSES, held_out=0, batch_size=4)
    with pytest.raises(LearnerError, match="label of sample 39 is 4"):
        learner.fit(epochs(1))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (tiny_model(classes=7), r"gives \(2, 7\) for a batch of 2; it must give logits \(2, 4\)"),
        (nn.Flatten(), "no parameter"),
        (nn.Sequential(nn.Linear(DIMS, 4), nn.Unflatten(1, (2, 2))), r"\(2, 2, 2\)"),
    ],
)
def test_an_unusable_model_is_refused(model: nn.Module, sentence: str) -> None:
    with pytest.raises(LearnerError, match=sentence):
        Learner(model, tiny_data(), classes=CLASSES)


def test_other_unusable_arguments() -> None:
    model = tiny_model()
    with pytest.raises(LearnerError, match="6 parameters that are not the model's"):
        Learner(model, tiny_data(), optimizer=torch.optim.SGD(tiny_model().parameters(), lr=0.1))
    with pytest.raises(LearnerError, match="held_out"):
        Learner(model, tiny_data(), held_out=1.5)
    with pytest.raises(LearnerError, match="leaves nothing to train on"):
        Learner(model, tiny_data(samples=2), held_out=0.9)
    with pytest.raises(LearnerError, match="batch_size"):
        Learner(model, tiny_data(), batch_size=0)
    with pytest.raises(LearnerError, match="public_sets"):
        Learner(model, tiny_data(), public_sets=[tiny_data()])  # type: ignore[list-item]
    public = tiny_data().unlabelled("p")
    with pytest.raises(LearnerError, match="same name"):
        Learner(model, tiny_data(), public_sets=[public, public])


def test_state_that_is_no_tensor_is_refused() -> None:
    class Odd(nn.Linear):
        def get_extra_state(self):
            return "mine"

        def set_extra_state(self, state):
            pass

    with pytest.raises(LearnerError, match="_extra_state"):
        Learner(Odd(DIMS, CLASSES), tiny_data(), classes=CLASSES)


# ---- data and order


def test_all_forms_of_the_same_data_train_to_the_same_bits() -> None:
    data = tiny_data()
    forms = [data, (data.x, data.y), TensorDataset(data.x, data.y), (data.x, data.y.to(torch.uint8))]
    learners = [tiny_learner(data=form, held_out=0) for form in forms]
    learners.append(tiny_learner(data=Listed(data.x, data.y.tolist()), held_out=0))
    for learner in learners:
        learner.fit(epochs(2))
    assert len({weights(learner) for learner in learners}) == 1


def test_an_epoch_visits_every_private_sample_once_and_nothing_held_out() -> None:
    learner = tiny_learner(held_out=0.25)
    seen = torch.cat([batch.ids for batch in learner.batches(epochs(1))])
    assert learner.held_out is not None
    assert sorted([*seen.tolist(), *learner.held_out.ids.tolist()]) == list(range(96))
    again = torch.cat([batch.ids for batch in learner.batches(epochs(1))])
    assert sorted(again.tolist()) == sorted(seen.tolist())
    assert again.tolist() != seen.tolist()


def test_batches_carry_the_samples_that_their_ids_name() -> None:
    data = tiny_data().subset(torch.arange(10, 80, 2))
    for batch in tiny_learner(data=data).batches(epochs(1)):
        whole = tiny_data()
        assert torch.equal(batch.x, whole.x[batch.ids])
        assert torch.equal(batch.y, whole.y[batch.ids])


@given(length=st.integers(1, 70), size=st.integers(1, 40), cuts=st.lists(st.integers(0, 9), max_size=6))
def test_spans_continue_where_the_last_one_ended(length: int, size: int, cuts: list[int]) -> None:
    whole, pieces = Sampler(length, size, seed=5), Sampler(length, size, seed=5)
    expected = [whole.next().tolist() for _ in range(sum(cuts))]
    actual: list[list[int]] = []
    for cut in cuts:
        actual += [pieces.next().tolist() for _ in range(pieces.count(steps(cut)))]
        moved = Sampler(length, size, seed=5)
        moved.go_to(*pieces.state())
        pieces = moved
    assert actual == expected


@given(length=st.integers(2, 200), size=st.integers(2, 64))
def test_no_batch_of_one_and_none_too_large(length: int, size: int) -> None:
    order = Sampler(length, size, seed=0)
    sizes = [len(order.next()) for _ in range(order.count(epochs(1)))]
    assert sum(sizes) == length
    assert min(sizes) >= 2
    assert max(sizes) <= max(size, 3)


def test_the_split_is_by_class_and_keeps_rare_classes() -> None:
    y = torch.tensor([0] * 60 + [1] * 30 + [2] * 2 + [3])
    learner = tiny_learner(data=(torch.zeros(93, DIMS), y), held_out=0.1)
    assert learner.held_out is not None
    assert torch.bincount(learner.held_out.y, minlength=4).tolist() == [6, 3, 1, 0]
    assert learner.describe().histogram == (54, 27, 1, 1)


def test_held_out_may_be_data_of_its_own_or_nothing() -> None:
    other = tiny_data(samples=20, seed=9)
    learner = tiny_learner(held_out=other)
    assert learner.held_out is not None
    assert torch.equal(learner.held_out.x, other.x)
    assert sum(learner.describe().histogram) == 96
    nothing = tiny_learner(held_out=0)
    assert nothing.held_out is None
    assert nothing.evaluate().samples == 0


def test_the_histogram_of_a_generic_data_set_reads_labels_only_when_asked() -> None:
    data = Listed(_x(50), [row % CLASSES for row in range(50)])
    learner = tiny_learner(data=data, held_out=0)
    before = data.reads
    assert before <= 4
    assert learner.describe().histogram == (13, 13, 12, 12)


# ---- training


def test_fit_learns_and_reports_the_mean_loss_per_sample() -> None:
    learner = tiny_learner()
    first = learner.fit(epochs(1))
    assert first.samples == sum(learner.describe().histogram)
    assert learner.fit(epochs(60)).loss < first.loss / 2
    assert learner.evaluate().accuracy > 0.8
    assert learner.model.training  # as a fresh module is


def test_same_seed_same_bits_with_dropout_whoever_else_draws() -> None:
    one, two = tiny_learner(model=Normed()), tiny_learner(model=Normed())
    before = torch.get_rng_state()
    one.fit(epochs(2))
    assert torch.equal(before, torch.get_rng_state())
    for _ in range(2):
        torch.rand(7)
        two.fit(epochs(1))
    assert weights(one) == weights(two)
    other = tiny_learner(1, model=Normed(), data=tiny_data())
    other.fit(epochs(2))
    assert weights(other) != weights(one)


class Wayward(nn.Module):
    """Draws without a module that says so."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny_model()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(nn.functional.dropout(x, 0.5, self.training))
        return logits


@pytest.mark.parametrize("kind", [Normed, Wayward])
def test_learners_that_draw_and_train_at_once_get_the_bits_of_each_alone(kind: type[nn.Module]) -> None:
    """Torch's generators belong to the process: without a turn each would draw from the seed of another."""
    alone, at_once = ([tiny_learner(n, model=_made(kind)) for n in range(3)] for _ in range(2))
    for learner in alone:
        learner.fit(epochs(4))
    threads = [threading.Thread(target=learner.fit, args=(epochs(4),)) for learner in at_once]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [weights(one) for one in at_once] == [weights(one) for one in alone]


def _made(kind: type[nn.Module]) -> nn.Module:
    with seeded(0):
        return kind()


def test_a_learner_that_draws_nothing_does_not_wait_for_those_that_do() -> None:
    plain, drawing = tiny_learner(), tiny_learner(model=Normed())
    for learner in (plain, drawing):
        learner.fit(steps(1))  # from which is seen whether it draws
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with seeded(3):
            held.set()
            go_on.wait(20)

    holder, waiter = threading.Thread(target=hold), threading.Thread(target=drawing.fit, args=(steps(1),))
    holder.start()
    assert held.wait(20)
    plain.fit(steps(3))
    waiter.start()
    waiter.join(0.2)
    assert waiter.is_alive(), "it draws, and has to wait for its turn"
    go_on.set()
    waiter.join(20)
    assert not waiter.is_alive()
    holder.join(20)


class Flipped(Listed):
    """Draws for some samples, and not for the first ones."""

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        x, y = super().__getitem__(row)
        return (x.flip(0) if y == CLASSES - 1 and float(torch.rand(())) < 0.5 else x), y


def test_a_data_set_that_draws_for_some_samples_gives_the_same_bits_whoever_else_draws() -> None:
    data = tiny_data(only=[0, 0, 0, 0, 0, 0, 0, CLASSES - 1])
    one, two = (tiny_learner(data=Flipped(data.x, data.y.tolist()), batch_size=2) for _ in range(2))
    one.fit(epochs(1))
    for _ in range(one.count(epochs(1))):
        torch.rand(3)
        two.fit(steps(1))
    assert weights(one) == weights(two)


def test_extra_loss_is_added_and_loss_replaces() -> None:
    plain, zero, only = tiny_learner(), tiny_learner(), tiny_learner()
    plain.fit(steps(3))
    zero.fit(steps(3), extra_loss=lambda model, batch: None)
    assert weights(plain) == weights(zero)
    report = only.fit(
        steps(1), loss=lambda model, batch: model(batch.x).sum() * 0 + 2, extra_loss=lambda m, b: m(b.x).sum() * 0 + 1
    )
    assert report.loss == 3.0


def test_a_loss_that_is_not_finite_raises_before_the_step() -> None:
    learner = tiny_learner()
    before = weights(learner)
    with pytest.raises(Diverged, match="lower the learning rate"):
        learner.fit(steps(1), loss=lambda model, batch: model(batch.x).sum() * torch.nan)
    assert weights(learner) == before


def test_interrupt_from_another_thread_stops_between_two_steps() -> None:
    learner = tiny_learner()
    started = threading.Event()

    def watch(model: nn.Module, batch: object) -> None:
        started.set()

    def stop() -> None:
        started.wait(10)
        learner.interrupt()

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Interrupted):
        learner.fit(steps(10_000_000), extra_loss=watch)
    thread.join()
    made = learner.steps
    assert made > 0
    twin = tiny_learner()
    twin.fit(steps(made))
    assert weights(twin) == weights(learner)
    learner.fit(steps(1))
    assert learner.steps == made + 1


def test_predict_is_in_eval_mode_and_restores_the_mode() -> None:
    learner = tiny_learner(model=Normed())
    learner.fit(steps(2))
    learner.model.train()
    learner.model.norm.eval()  # type: ignore[union-attr]
    modes = [m.training for m in learner.model.modules()]
    before = everything(learner)
    x = tiny_data(samples=700).x
    p = learner.predict(x)
    assert p.shape == (700, CLASSES)
    assert torch.allclose(p.sum(dim=1), torch.ones(700))
    assert torch.equal(p, learner.predict(x))
    assert [m.training for m in learner.model.modules()] == modes
    assert everything(learner) == before
    assert learner.predict(x[:0]).shape == (0, CLASSES)


# ---- all or nothing


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Interrupted])
def test_tentative_puts_everything_back(error: type[BaseException]) -> None:
    learner = tiny_learner(model=Normed())
    learner.fit(steps(4))
    before = everything(learner)

    def spoil() -> None:
        learner.fit(steps(3))
        torch.rand(3, generator=learner.rng)
        learner.overwrite({"fc.bias": torch.ones(CLASSES)})
        learner.model.eval()
        learner.model(tiny_data().x).sum().backward()
        learner.optimizer.param_groups[0]["lr"] = 9.0
        raise error

    with pytest.raises(error), learner.tentative():
        spoil()
    assert everything(learner) == before
    twin = tiny_learner(model=Normed())
    twin.fit(steps(6))
    learner.fit(steps(2))
    assert weights(twin) == weights(learner)


def test_a_mark_may_be_restored_twice() -> None:
    learner = tiny_learner()
    learner.fit(steps(2))
    mark, before = learner.mark(), everything(learner)
    for _ in range(2):
        learner.fit(steps(2))
        learner.restore(mark)
        assert everything(learner) == before


def test_overwrite_clears_the_optimizer_state_of_these_tensors_only() -> None:
    learner = tiny_learner()
    learner.fit(steps(3))
    new = torch.full((CLASSES, 8), 0.5)
    learner.overwrite({"fc.weight": new})
    assert torch.equal(learner.state["fc.weight"], new)
    assert learner.state["fc.weight"] not in learner.optimizer.state
    assert learner.state["fc.bias"] in learner.optimizer.state
    learner.fit(steps(1))


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"fc.bias": torch.ones(CLASSES), "nose": torch.ones(1)}, "'nose' is not part"),
        ({"fc.bias": torch.ones(CLASSES), "fc.weight": torch.ones(2)}, "shape"),
        ({"fc.bias": torch.ones(CLASSES), "fc.weight": torch.ones(CLASSES, 8).double()}, "float64"),
        ({"fc.bias": torch.ones(CLASSES), "fc.weight": torch.full((CLASSES, 8), torch.nan)}, "not finite"),
    ],
)
def test_overwrite_refuses_before_anything_is_changed(tensors: dict[str, Tensor], sentence: str) -> None:
    learner = tiny_learner()
    before = everything(learner)
    with pytest.raises(KnowledgeError, match=sentence):
        learner.overwrite(tensors)
    assert everything(learner) == before


# ---- somebody's network, to look at


class Remembering(nn.Module):
    """Keeps what it has seen in a buffer that is no part of its state, and lets it weigh in."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.inner = Normed(seed)
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        logits: Tensor = self.inner(x) + self.seen
        return logits


@pytest.mark.parametrize("kept", [True, False])
def test_a_network_on_trial_is_the_one_that_would_be_built(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not kept:
        monkeypatch.setattr("peerlearn.learning.trial.MOST_BYTES", 10)
    learner, x = tiny_learner(model=Remembering()), tiny_data(seed=3).x
    before = everything(learner)
    networks = []
    for seed in (1, 2, 1):
        state = {name: t.detach() for name, t in tiny_learner(model=Remembering(seed)).state.items()}
        networks.append(learner.trial(state))
        assert torch.equal(learner.logits(x, model=networks[-1]), learner.logits(x, model=learner.build(state)))
        assert bits(state) == bits(dict(tiny_learner(model=Remembering(seed)).state)), "it is not written to"
    assert (networks[0] is networks[2]) is kept
    assert everything(learner) == before


def test_the_samples_to_try_a_model_on_are_read_once_between_two_steps() -> None:
    data = tiny_data()
    listed = Listed(data.x, data.y.tolist())
    learner = tiny_learner(data=listed, held_out=0.0)
    first = learner.sample(5)
    reads = listed.reads
    first += 1  # as a model may that works in place
    again = learner.sample(5)
    assert listed.reads == reads
    assert torch.equal(again, learner.sample(9)[:5])
    assert not torch.equal(again, first)
    assert len(learner.sample(7)) == 7
    learner.fit(steps(1))
    reads = listed.reads
    learner.sample(7)
    assert listed.reads == reads + 7


def test_gradients_that_an_app_has_left_behind_are_no_part_of_a_step() -> None:
    clean, left = tiny_learner(), tiny_learner()
    for parameter in left.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    clean.fit(steps(2))
    left.fit(steps(2))
    assert weights(left) == weights(clean)
    assert all(parameter.grad is None for parameter in left.model.parameters())


def test_a_copy_of_a_tree_shares_nothing_that_can_change() -> None:
    tensor = torch.ones(2, requires_grad=True)
    tree: dict[str, Any] = {"a": [tensor, (1, "x", None)], "b": {"c": {3, 4}}, "d": 1.5}
    copy = state.tree(tree)
    assert copy["b"] == tree["b"]
    assert copy["a"][1:] == tree["a"][1:]
    assert isinstance(copy["a"][1], tuple)
    assert torch.equal(copy["a"][0], tensor)
    tensor.data += 1
    tree["a"].append(1)
    tree["b"]["c"].add(5)
    assert copy["a"][0].tolist() == [1, 1]
    assert (len(copy["a"]), copy["b"], copy["d"]) == (2, {"c": {3, 4}}, 1.5)


# ---- snapshots


def test_a_snapshot_does_not_change_with_the_learner() -> None:
    learner = tiny_learner(model=Normed())
    learner.fit(steps(1))
    shown = learner.snapshot(3, extras="note")
    before, x = bits(dict(shown.state)), tiny_data().x
    expected = learner.logits(x)
    learner.fit(epochs(1))
    assert bits(dict(shown.state)) == before
    module = shown.module()
    assert module is shown.module()
    assert torch.equal(module(x), expected)
    assert not module.training
    assert not any(p.requires_grad for p in module.parameters())
    assert (shown.version, shown.extras) == (3, "note")
    with pytest.raises(TypeError):
        shown.state["fc.bias"] = torch.zeros(1)  # type: ignore[index]


class Counting(torch.optim.Optimizer):
    """Adds 1 to every parameter, one after the other: between two steps all are equal, within one they are not."""

    def __init__(self, parameters) -> None:
        super().__init__(parameters, {})

    def step(self, closure=None):
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    for row in p.view(-1).split(64):
                        row.add_(1)


def test_a_snapshot_never_shows_a_model_between_two_steps() -> None:
    """Readers build modules and read tensors of each snapshot while the learner's thread trains on."""
    model = tiny_model(hidden=(64, 64))
    for p in model.parameters():
        nn.init.zeros_(p)
    learner = Learner(model, tiny_data(), optimizer=Counting(model.parameters()), classes=CLASSES)
    latest: list[Snapshot] = [learner.snapshot(0)]
    done = threading.Event()
    seen: set[int] = set()
    torn: list[str] = []

    def read() -> None:
        while not done.is_set():
            shown = latest[-1]
            values = {float(v) for t in shown.state.values() for v in t.unique()}
            values |= {float(v) for p in shown.module().parameters() for v in p.unique()}
            if values != {float(shown.version)}:
                torn.append(f"version {shown.version} shows {values}")
            seen.add(shown.version)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    while len(seen) < 20 and not torn:
        learner.fit(steps(1))
        latest.append(learner.snapshot(learner.steps))
        del latest[:-1]
    done.set()
    for reader in readers:
        reader.join()
    assert not torn


# ---- who it is, and going on


def test_facts_for_the_card() -> None:
    one, two = tiny_learner(0, start=1), tiny_learner(5, start=1)
    other, wider = tiny_learner(0, start=2), tiny_learner(model=tiny_model(hidden=(8, 9)))
    facts = one.describe()
    assert facts.start == two.describe().start != other.describe().start
    assert facts.architecture == other.describe().architecture != wider.describe().architecture
    assert [(layer.name, layer.kind, layer.shape) for layer in facts.layers] == [
        ("body.0", "Linear", (8, DIMS)),
        ("penult", "Linear", (8, 8)),
        ("fc", "Linear", (CLASSES, 8)),
    ]
    one.fit(epochs(1))
    assert one.describe() == facts
    public = Unlabelled(tiny_data().x, torch.arange(96), "common")
    assert tiny_learner(public_sets=[public]).describe().public_sets == (public.card,)


def test_a_model_gives_the_number_of_classes_when_none_is_told() -> None:
    data = tiny_data()
    assert Learner(tiny_model(classes=6), (data.x, data.y)).classes == 6


@settings(max_examples=8, deadline=None)
@given(before=st.integers(0, 9), after=st.integers(1, 9))
def test_resuming_gives_the_same_bits(before: int, after: int) -> None:
    straight = tiny_learner(model=Normed())
    straight.fit(steps(before + after))
    first = tiny_learner(model=Normed())
    first.fit(steps(before))
    saved = first.state_dict()
    first.fit(steps(3))  # what was saved must not follow
    resumed = tiny_learner(model=Normed(seed=7))
    resumed.load_state_dict(saved)
    resumed.fit(steps(after))
    assert weights(resumed) == weights(straight)
    assert resumed.steps == straight.steps
    assert resumed.describe() == straight.describe()


def test_a_state_of_another_learner_is_refused_and_changes_nothing() -> None:
    saved = tiny_learner().state_dict()
    for learner, sentence in [
        (tiny_learner(model=Normed()), "another model"),
        (tiny_learner(seed=1), "seed 0, this learner has 1"),
        (tiny_learner(batch_size=8), "batch_size"),
        (tiny_learner(data=tiny_data(samples=40)), "samples"),
    ]:
        with pytest.raises(StateError, match=sentence):
            learner.load_state_dict(saved)
    learner = tiny_learner()
    learner.fit(steps(1))
    before = everything(learner)
    for broken in (
        {**saved, "optimizer": {}},
        {k: v for k, v in saved.items() if k != "order"},
        {**saved, "model": {}},
    ):
        with pytest.raises(StateError, match="does not fit"):
            learner.load_state_dict(broken)
        assert everything(learner) == before


def test_report_is_frozen() -> None:
    report = tiny_learner().fit(steps(1))
    assert replace(report, providers=("a",)).steps == 1


def test_preview_shows_the_first_and_last_batch_and_moves_nothing() -> None:
    learner = tiny_learner()
    learner.fit(steps(2))
    before = everything(learner)
    first, last = learner.preview(epochs(1))
    assert everything(learner) == before
    coming = [batch.ids.tolist() for batch in learner.batches(epochs(1))]
    assert [first.ids.tolist(), last.ids.tolist()] == [coming[0], coming[-1]]


def test_a_model_that_was_trained_before_may_name_the_weights_that_it_began_from() -> None:
    one = tiny_learner(1)
    begun = one.describe().start
    one.fit(epochs(1))

    def again(**more: Any) -> Learner:
        return Learner(one.model, tiny_data(seed=1), classes=CLASSES, **more)

    assert again().describe().start != begun
    assert again(start=begun).describe().start == begun == tiny_learner(2).describe().start
