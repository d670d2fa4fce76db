"""From one variant and one seed to what learns: data, who holds which samples, models, learners, strategies."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module

import torch
from torch import Tensor, nn

from peerlearn.data import cifar10, datasets, nsl_kdd, partition, partition_shared
from peerlearn.data.datasets import Split
from peerlearn.data.partition_skew import skewed
from peerlearn.errors import ConfigError
from peerlearn.experiments.run.evaluation import Evaluator
from peerlearn.experiments.spec.setup import Data, Model, Setup, Training
from peerlearn.learning import models
from peerlearn.learning.dataset import Dataset, Unlabelled
from peerlearn.learning.learner import Learner
from peerlearn.learning.sampler import derived, seeded_rng
from peerlearn.strategies.fedgkt import models as gkt_models
from peerlearn.strategies.mhd.heads import MultiHead
from peerlearn.suggest import did_you_mean


def stacked_patches(*, classes: int = 10, seed: int = 0) -> nn.Sequential:
    """FedGKT's large network as one: the hub's after the edge's extractor. (B, 1, 28, 28) to logits (B, classes)."""
    extractor = gkt_models.PatchEdge(classes=classes, seed=seed).extractor
    return nn.Sequential(extractor, gkt_models.PatchHub(classes=classes, seed=seed))


MODELS: Mapping[str, Callable[..., nn.Module]] = {
    "net": models.Net,
    "small-cnn": models.SmallCNN,
    "deep-cnn": models.DeepCNN,
    "mlp": models.MLP,
    "colour-cnn": cifar10.ColourCNN,
    "gkt-small": gkt_models.GKTSmall,
    "gkt-large": gkt_models.GKTLarge,
    "patch-edge": gkt_models.PatchEdge,
    "patch-hub": gkt_models.PatchHub,
    "patch-stacked": stacked_patches,
}
_LOADERS: Mapping[str, Callable[[str | None], Split]] = {
    "cifar-10": cifar10.load,
    "nsl-kdd": nsl_kdd.load,
}
PUBLIC, COMMON = "public", "shared"


@dataclass(frozen=True, eq=False)
class SharedData:
    """What all peers of a run share. `parts`: rows of `train` per peer, int64; `common`: those that everybody holds."""

    train: Dataset
    test: Dataset
    parts: tuple[Tensor, ...]
    own: tuple[tuple[int, ...], ...]
    public_sets: tuple[Unlabelled, ...]


@lru_cache(maxsize=1)  # the runs of one experiment share it; the next experiment may use another
def load(name: str, folder: str) -> Split:
    """The data set of this name. Raises ConfigError for an unknown name, or a folder without the files."""
    if name in _LOADERS:
        return _LOADERS[name](folder or None)
    if name not in datasets.names():
        known = [*datasets.names(), *_LOADERS]
        near = did_you_mean(name, known)
        raise ConfigError(f"data.name: there is no data set {name!r}, only {', '.join(known)}{near}")
    return datasets.load(name, folder=folder or None)


def missing(setup: Setup) -> str | None:
    """Why the data of this set-up cannot be had here; None when it can."""
    loaders = {"cifar-10": cifar10.missing, "nsl-kdd": nsl_kdd.missing}
    return loaders[setup.data.name](setup.data.folder or None) if setup.data.name in loaders else None


# ---------------------------------------------------------------- who holds what


def world(setup: Setup, seed: int) -> SharedData:
    """Raises ConfigError when the data does not have what the set-up wants."""
    split = load(setup.data.name, setup.data.folder)
    train = _of_each_class(split.train, setup.data.train_per_class, ("train", seed))
    test = _of_each_class(split.test, setup.data.test_per_class, ("test",))
    public_sets = _public(setup.data, split.train, train, seed)
    holders = [peer for peer in setup.peers.all if peer not in setup.peers.blank]
    parts = _parts(setup, train.y, len(holders), seed)
    if setup.data.common_share:
        common = partition_shared.shared_subset(train.y, share=setup.data.common_share, seed=seed)
        parts = partition_shared.with_shared(parts, common)
        public_sets = (*public_sets, train.subset(train.ids[common]).unlabelled(COMMON))
    everything = tuple(range(train.classes))
    own = dict(zip(holders, setup.own(len(holders), train.classes), strict=True))
    rows = dict(zip(holders, parts, strict=True))
    return SharedData(
        train,
        test,
        tuple(rows.get(peer, torch.empty(0, dtype=torch.int64)) for peer in setup.peers.all),
        tuple(own.get(peer, everything) for peer in setup.peers.all),
        public_sets,
    )


def _parts(setup: Setup, y: Tensor, peers: int, seed: int) -> list[Tensor]:
    chosen = setup.partition
    match chosen.kind:
        case "by-classes":
            return partition.by_classes(y, chosen.groups, overlap=chosen.overlap, seed=seed)
        case "iid":
            return partition.iid(y, peers, seed=seed)
        case "dirichlet":
            return partition.dirichlet(y, peers, alpha=chosen.alpha, seed=seed)
        case "skew":
            primary = chosen.own(peers, int(y.max()) + 1)
            return skewed(y, primary, skew=chosen.skew, seed=seed)


def _of_each_class(data: Dataset, each: int, parts: tuple[object, ...]) -> Dataset:
    if not each:
        return data
    return data.subset(torch.cat([_drawn(data, c, each, parts) for c in range(data.classes)]))


def _drawn(data: Dataset, c: int, each: int, parts: tuple[object, ...]) -> Tensor:
    """Ids of so many samples of one class."""
    ids = data.ids[data.y == c]
    if len(ids) < each:
        raise ConfigError(
            f"{data.name} has {len(ids)} samples of class {c}, and {each} are wanted: take fewer, or the --quick size"
            + ("; the full set comes with Debian's dataset-fashion-mnist" if "slice" in data.name else "")
        )
    return ids[torch.randperm(len(ids), generator=seeded_rng(*parts, c))[:each]]


def _public(wanted: Data, whole: Dataset, used: Dataset, seed: int) -> tuple[Unlabelled, ...]:
    """Drawn from the training samples that no peer holds."""
    if not wanted.public:
        return ()
    free = whole.ids[~torch.isin(whole.ids, used.ids)]
    if len(free) < wanted.public:
        raise ConfigError(
            f"data: {wanted.public} public samples are wanted, and {len(free)} of {whole.name} are nobody's; "
            "lower train_per_class or public"
        )
    chosen = free[torch.randperm(len(free), generator=seeded_rng("public", seed))[: wanted.public]]
    return (whole.subset(chosen).unlabelled(PUBLIC),)


# ---------------------------------------------------------------- models and learners


def make_model(chosen: Model, classes: int, seed: int) -> nn.Module:
    """Raises ConfigError for a name that is no model, or options that it does not take."""
    kind = MODELS[chosen.name] if chosen.name in MODELS else _imported(chosen.name)
    known = inspect.signature(kind).parameters
    for option in chosen.options:
        if option not in known:
            raise ConfigError(f"model {chosen.name} has no option {option!r}{did_you_mean(option, known)}")
    options = {name: tuple(v) if isinstance(v, list) else v for name, v in chosen.options.items()}
    for name, value in (("classes", classes), ("seed", seed)):
        if name in known and name not in options:
            options[name] = value
    model = kind(**options)
    if chosen.heads is None:
        return model
    return MultiHead.over(model, aux=chosen.heads, projections=chosen.projections, seed=seed)


def _imported(name: str) -> Callable[..., nn.Module]:
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ConfigError(
            f"there is no model {name!r}, only {', '.join(MODELS)} or MODULE:CLASS{did_you_mean(name, MODELS)}"
        )
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as exc:
        raise ConfigError(f"model {name!r} cannot be imported: {exc}") from exc
    if not callable(found):
        raise ConfigError(f"model {name!r} is a {type(found).__name__}, not a class or function that makes a network")
    return found  # type: ignore[no-any-return]  # a user's own; Learner checks what it makes


def model_of(setup: Setup, peer: str, classes: int, seed: int) -> nn.Module:
    chosen = setup.model_of(peer)
    start = seed if chosen.start == "common" else derived("start", seed, peer)
    return make_model(chosen, classes, start)


def learner(setup: Setup, given: SharedData, peer: str, seed: int) -> Learner:
    """The learner of one peer. Raises ConfigError or LearnerError."""
    model = model_of(setup, peer, given.train.classes, seed)
    number = setup.peers.all.index(peer)
    private = _private(setup, given, peer, number, seed)
    blank = peer in setup.peers.blank
    if blank:
        shape = getattr(model, "feature_shape", tuple(given.train.x.shape[1:]))
        private = gkt_models.no_samples(shape, given.train.classes)
    return make_learner(
        setup.training if not blank else replace(setup.training, held_out=0.0),
        model, private, seed=derived("learner", seed, peer), public_sets=given.public_sets,
    )  # fmt: skip


def make_learner(
    chosen: Training,
    model: nn.Module,
    private: Dataset,
    *,
    seed: int,
    public_sets: tuple[Unlabelled, ...] = (),
) -> Learner:
    return Learner(
        model, private, optimizer=optimizer(chosen, model), classes=private.classes, batch_size=chosen.batch_size,
        held_out=chosen.held_out, seed=seed, public_sets=public_sets,
    )  # fmt: skip


def optimizer(chosen: Training, model: nn.Module) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if chosen.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=chosen.lr, weight_decay=chosen.weight_decay, fused=True)
    return torch.optim.SGD(parameters, lr=chosen.lr, momentum=chosen.momentum, weight_decay=chosen.weight_decay)


def _private(setup: Setup, given: SharedData, peer: str, number: int, seed: int) -> Dataset:
    """A peer's part, with the noise in its labels that the set-up wants."""
    if not len(given.parts[number]):
        return given.train
    part = given.train.subset(given.train.ids[given.parts[number]], name=f"{given.train.name}/{peer}")
    noise = setup.peers.label_noise.get(peer, setup.training.label_noise)
    if not noise:
        return part
    source = seeded_rng("noise", seed, peer)
    wrong = torch.randperm(len(part), generator=source)[: round(noise * len(part))]
    y = part.y.clone()
    y[wrong] = y[wrong[torch.randperm(len(wrong), generator=source)]]
    return Dataset(part.x, y, part.ids, part.classes, part.name)


def exam(setup: Setup, given: SharedData, peer: str) -> Evaluator:
    """The test set as this peer sits it."""
    number = setup.peers.all.index(peer)
    held = given.train.y[given.parts[number]] if len(given.parts[number]) else given.train.y
    weights = torch.bincount(held, minlength=given.train.classes).double()
    others = {}
    if setup.partition.kind == "by-classes" and setup.stream is None:
        named = zip(setup.peers.all, given.own, strict=True)
        others = {name: own for name, own in named if name != peer and name not in setup.peers.blank}
    return Evaluator(given.test, given.own[number], weights, setup.measure.at_private, others)
