"""The dial moves a trained model between its own classes and all classes, by any strategy, without training."""

import pytest
import torch
from torch import Tensor

from peerlearn.arguments import Internals
from peerlearn.blocking import BlockingPeer
from peerlearn.errors import ConfigError
from peerlearn.experiments.run.evaluation import Curve
from peerlearn.learning.learner import Learner
from peerlearn.learning.prior import Dial
from peerlearn.learning.sampler import seeded_rng
from peerlearn.peer import Peer
from peerlearn.strategies.distillation import Distillation
from peerlearn.strategies.isolated import Isolated
from peerlearn.strategies.pairwise.strategy import Pairwise
from peerlearn.testing import CLASSES, tiny_data, tiny_model

COUNTS = (90, 90, 10, 10)
OWN = (0, 1)


def skewed_learner(*, held_out: float = 0.3) -> Learner:
    """Trained, on many samples of classes 0 and 1 and few of 2 and 3, blurred so that classes overlap."""
    whole = tiny_data(samples=400, seed=1)
    rows = torch.cat([torch.nonzero(whole.y == c).reshape(-1)[:n] for c, n in enumerate(COUNTS)])
    x = whole.x[rows] + 2.5 * torch.randn(len(rows), whole.x.shape[1], generator=seeded_rng("blur", 0))
    learner = Learner(tiny_model(), (x, whole.y[rows]), classes=CLASSES, held_out=held_out, batch_size=16)
    learner.fit(Isolated(passes=12).schedule.cycle[0].span)  # type: ignore[union-attr]
    return learner


def blurred_test() -> tuple[Tensor, Tensor]:
    test = tiny_data(samples=400, seed=2)
    return test.x + 2.5 * torch.randn(test.x.shape, generator=seeded_rng("blur", 1)), test.y


def recalls(probabilities: Tensor, y: Tensor) -> tuple[float, float]:
    """On own classes, on others'."""
    right = probabilities.argmax(dim=1) == y
    own = torch.isin(y, torch.tensor(OWN))
    return float(right[own].float().mean()), float(right[~own].float().mean())


def offline(learner: Learner, strategy: Distillation | Pairwise | Isolated | None = None) -> Peer:
    return Peer(learner, strategy=strategy or Isolated(), internals=Internals(discovery=()), name="amber")


async def test_local_is_the_identity_to_the_bit() -> None:
    x, _ = blurred_test()
    learner = skewed_learner()
    async with offline(learner) as peer:
        plain = await peer.predict(x)
        await peer.calibrate()
        assert torch.equal(plain, learner.predict(x))
        assert torch.equal(await peer.predict(x, prior="local"), plain)
        assert torch.equal(await peer.predict(x, prior=0.0), plain)
        assert torch.equal(await peer.predict(x, prior=0), plain)


@pytest.mark.parametrize("strategy", [Isolated(), Distillation(), Pairwise()], ids=lambda s: s.name)
async def test_uniform_raises_remote_recall_for_every_strategy(strategy: Isolated | Distillation | Pairwise) -> None:
    x, y = blurred_test()
    async with offline(skewed_learner(), strategy) as peer:
        before = recalls(await peer.predict(x), y)
        await peer.calibrate()
        turned = await peer.predict(x, prior="uniform")
    after = recalls(turned, y)
    assert after[1] > before[1] + 0.05
    assert after[0] < before[0]
    torch.testing.assert_close(turned.sum(dim=1), torch.ones(len(x)))


async def test_a_number_moves_along_the_curve_and_training_is_not_touched() -> None:
    x, y = blurred_test()
    learner = skewed_learner()
    state = {name: tensor.clone() for name, tensor in learner.state.items()}
    async with offline(learner) as peer:
        found = [recalls(await peer.predict(x, prior=at), y) for at in (-6.0, -2.0, -0.5, 0.0, 0.5, 2.0, 6.0)]
    assert [own for own, _ in found] == sorted(own for own, _ in found)
    assert [other for _, other in found] == sorted((other for _, other in found), reverse=True)
    assert found[0][1] > found[-1][1]
    assert all(torch.equal(state[name], tensor) for name, tensor in learner.state.items())


async def test_weights_by_class() -> None:
    x, _ = blurred_test()
    async with offline(skewed_learner()) as peer:
        only = await peer.predict(x, prior={2: 1.0, 3: 3.0})
        uniform = await peer.predict(x, prior="uniform")
        same = await peer.predict(x, prior=dict.fromkeys(range(CLASSES), 0.25))
    assert bool((only[:, :2] == 0).all())
    torch.testing.assert_close(uniform, same)


def test_calibration_finds_how_much_of_the_prior_is_in_the_model() -> None:
    """Probabilities made with all, half and none of the class frequencies in them."""
    dial = Dial.of((900, 900, 100, 100))
    source = seeded_rng("calibration", 0)
    y = torch.arange(2000) % CLASSES
    evidence = torch.randn(2000, CLASSES, generator=source, dtype=torch.float64)
    evidence[torch.arange(2000), y] += 1.0  # Gaussian evidence: log-odds of a mean shift by one are x + const
    for share in (1.0, 0.5, 0.0):
        given = (evidence + share * dial.log_prior).softmax(dim=1)
        assert dial.calibrated(given, y).strength == pytest.approx(share, abs=0.1)


def test_a_calibrated_dial_does_not_correct_what_is_balanced_already() -> None:
    dial = Dial.of((90, 90, 10, 10))
    y = torch.arange(400) % CLASSES
    given = torch.nn.functional.one_hot(y, CLASSES).float() * 0.6 + 0.1
    fitted = dial.calibrated(given, y)
    assert fitted.strength == pytest.approx(0.0, abs=1e-6)
    torch.testing.assert_close(fitted.turned(given, "uniform"), given)


def test_too_little_to_calibrate_by_leaves_the_counts_alone() -> None:
    dial = Dial.of(COUNTS)
    assert dial.calibrated(torch.full((3, CLASSES), 0.25), torch.zeros(3, dtype=torch.int64)) is dial
    nothing = Dial.of((0, 0, 0, 0))
    given = torch.rand(5, CLASSES, generator=seeded_rng("given", 0)).softmax(dim=1)
    torch.testing.assert_close(nothing.turned(given, "uniform"), given)


@pytest.mark.parametrize(
    ("prior", "says"),
    [
        ("flat", "neither 'local' nor 'uniform'"),
        ({7: 1.0}, "names class 7"),
        ({0: -1.0}, "must be at least 0"),
        ({0: 0.0}, "positive weight"),
        (float("nan"), "finite number"),
        (True, "finite number"),
        (None, "finite number"),
    ],
)
def test_a_prior_that_is_none_is_one_sentence(prior: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Dial.of(COUNTS).turned(torch.full((2, CLASSES), 0.25), prior)  # type: ignore[arg-type]


def test_the_blocking_twin_has_it_too() -> None:
    x, y = blurred_test()
    with BlockingPeer(skewed_learner(), strategy="isolated", internals=Internals(discovery=())) as peer:
        assert 0 <= peer.calibrate().strength <= 4
        assert recalls(peer.predict(x, prior="uniform"), y)[1] > recalls(peer.predict(x), y)[1]


# ---- the curve of the experiments is the same device, swept


def test_the_curve_agrees_with_the_dial() -> None:
    x, y = blurred_test()
    learner = skewed_learner()
    given, own = learner.predict(x), torch.tensor([c in OWN for c in range(CLASSES)])
    curve, dial = Curve(given, y, own), Dial.of(COUNTS)
    for offset in (-3.0, -1.0, 0.0, 1.0, 3.0):
        right = dial.turned(given.double(), offset).argmax(dim=1) == y
        private, shared = curve.at(offset)
        assert private == pytest.approx(float(right[own[y]].double().mean()))
        assert shared == pytest.approx(float(right.double().mean()))


def test_shared_accuracy_is_read_where_private_accuracy_is_reached() -> None:
    x, y = blurred_test()
    given, own = skewed_learner().predict(x), torch.tensor([c in OWN for c in range(CLASSES)])
    curve = Curve(given, y, own)
    most = curve.at(1e3)[0]
    logs = given.double().log()
    switches = (logs[:, 2:].max(dim=1).values - logs[:, :2].max(dim=1).values).sort().values.tolist()
    for private in (0.3, 0.5, most):
        least = next(offset for offset in switches if curve.at(offset + 1e-9)[0] >= private)
        assert curve.shared_at(private) == curve.at(least + 1e-9)[1]
    assert curve.shared_at(0.0) == curve.at(-1e3)[1]
    assert torch.isnan(torch.tensor(curve.shared_at(most + 0.01)))
    points = curve.points()
    assert points["private"] == sorted(points["private"])


def test_with_all_classes_own_the_offset_does_nothing() -> None:
    x, y = blurred_test()
    given = skewed_learner().predict(x)
    curve = Curve(given, y, torch.ones(CLASSES, dtype=torch.bool))
    plain = float((given.argmax(dim=1) == y).double().mean())
    for offset in (-5.0, 0.0, 5.0):
        assert curve.at(offset) == pytest.approx((plain, plain))
