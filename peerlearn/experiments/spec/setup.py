"""What one variant of an experiment is made of: data, partition, peers, models, strategy, topology, pace, measures.

Each class is one table of the TOML file; its fields are the keys.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from peerlearn.data.partition_skew import primary_classes
from peerlearn.errors import ConfigError
from peerlearn.experiments.spec.topology import Topology
from peerlearn.schema import at_least, share
from peerlearn.transport.faults.model import Faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """`[data]`. `folder`: where the files are, else where the loader looks by itself. `train_per_class`,
    `test_per_class`: that many samples of each class, drawn by the run's seed (test: always the same); 0: all.
    `public`: so many training samples, of all classes, are put aside without labels as a public set for everybody;
    `common_share`: this share of the training samples is put aside, with labels, and given to every peer on top."""

    name: str = "fashion-mnist"
    folder: str = ""
    train_per_class: int = 0
    test_per_class: int = 0
    public: int = 0
    common_share: float = 0.0

    def __post_init__(self) -> None:
        at_least(0, train_per_class=self.train_per_class, test_per_class=self.test_per_class, public=self.public)
        share(common_share=self.common_share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """`[partition]`: who holds what. `by-classes`: peer i holds `groups[i]`, and a share `overlap` of the whole set on
    top. `iid`: equal parts. `dirichlet`: classes divided by proportions from Dirichlet(`alpha`). `skew`: `primary`
    classes per peer, whose samples come to it with weight 1 + `skew`.

    A peer's own classes are its group or its primary classes, else all."""

    kind: Literal["by-classes", "iid", "dirichlet", "skew"] = "iid"
    groups: tuple[tuple[int, ...], ...] = ()
    overlap: float = 0.05
    alpha: float = 0.5
    primary: int = 5
    skew: float = 100.0

    def __post_init__(self) -> None:
        if bool(self.groups) != (self.kind == "by-classes"):
            raise ConfigError("groups, a list of classes for each peer, go with kind by-classes, and with no other")
        share(overlap=self.overlap)
        at_least(0, skew=self.skew)
        if not self.alpha > 0:
            raise ConfigError(f"alpha must be positive, not {self.alpha:g}")

    def own(self, peers: int, classes: int) -> tuple[tuple[int, ...], ...]:
        """The own classes of each peer."""
        if self.kind == "by-classes":
            return self.groups
        if self.kind == "skew":
            return primary_classes(classes, peers, self.primary)
        return (tuple(range(classes)),) * peers


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """`[model]`, and `model` of a role. `name`: one of ours (models.py here) or MODULE:CLASS; `options`: its keyword
    arguments. `heads`: auxiliary heads put on it. `start`: whether all peers begin with the same weights."""

    name: str = "net"
    options: Mapping[str, Any] = field(default_factory=dict)
    heads: int | None = None
    projections: tuple[int, ...] = ()
    start: Literal["common", "own"] = "common"

    def __post_init__(self) -> None:
        at_least(0, heads=self.heads or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """`[training]`. `held_out`: share of the private data kept for the gate. `gate`: what it measures; `off`: every
    transfer is kept, as in the papers. `label_noise`: this share of the labels is dealt out anew among themselves."""

    batch_size: int = 64
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-3
    momentum: float = 0.0
    weight_decay: float = 0.0
    held_out: float = 0.0
    gate: Literal["off", "balanced", "accuracy"] = "off"
    tolerance: float = 0.1
    label_noise: float = 0.0

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size)
        at_least(0, momentum=self.momentum, weight_decay=self.weight_decay)
        share(held_out=self.held_out, tolerance=self.tolerance, label_noise=self.label_noise)
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"lr must be positive, not {self.lr:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyChoice:
    """`[strategy]`. `name`: of the fabric, or `central` (one model on everybody's data) or `local` (each measured peer
    alone, no fabric), of the harness. `options`: of its constructor; `per_peer`: what differs, by name of peer."""

    name: str = "isolated"
    options: Mapping[str, Any] = field(default_factory=dict)
    per_peer: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def options_of(self, peer: str) -> dict[str, Any]:
        return {**self.options, **self.per_peer.get(peer, {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pacing:
    """`[pace]`. `patience`: seconds that a live peer may take for a round before the others go on without it."""

    mode: Literal["lockstep", "free"] = "lockstep"
    patience: float = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """`[peers]`: their names, or a `count` of them (p0, p1, ...). `measured`: whose accuracies are tabled; none: all.
    `models`: a table as `[model]` by name of peer, for those that differ. `blank`: those that hold no
    samples (a hub that learns from what others bring). `label_noise`: by name of peer, instead of the training's.
    `rounds`: by name of peer; where a schedule has no cycle, the versions that are published before it is done, or 0
    for as many as come before the others are done."""

    names: tuple[str, ...] = ()
    count: int = 0
    measured: tuple[str, ...] = ()
    models: Mapping[str, Model] = field(default_factory=dict)
    blank: tuple[str, ...] = ()
    label_noise: Mapping[str, float] = field(default_factory=dict)
    rounds: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.names) == bool(self.count) or self.count < 0:
            raise ConfigError("give either names or a count of at least 1")
        if len(set(self.all)) < len(self.all):
            raise ConfigError(f"two peers have the same name among {', '.join(self.all)}")
        mentioned = [*self.measured, *self.models, *self.blank, *self.label_noise, *self.rounds]
        for name in mentioned:
            if name not in self.all:
                raise ConfigError(f"there is no peer {name!r}, only {', '.join(self.all)}")
        share(**{f"label_noise.{name}": noise for name, noise in self.label_noise.items()})

    @property
    def all(self) -> tuple[str, ...]:
        return self.names or tuple(f"p{n}" for n in range(self.count))

    @property
    def looked_at(self) -> tuple[str, ...]:
        return self.measured or self.all


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """`[measure]`. Every `every` rounds; `last`: rows are means of so many last measured rounds. `at_private`: private
    accuracies at which shared accuracy is read off the curve of one offset on the own classes."""

    every: int = 1
    last: int = 5
    at_private: tuple[float, ...] = (0.88, 0.90, 0.92, 0.94)

    def __post_init__(self) -> None:
        at_least(1, every=self.every, last=self.last)
        share(**{f"at_private[{n}]": share for n, share in enumerate(self.at_private)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`[stream.workloads.PEER]`: the request batches that a peer serves (learning/stream.py). `steady`: the `own`
    classes, `before` + `after` batches. `introduction`: `new` ones join after `before` batches, a `share` of each
    batch, and stay for `after`. `fluctuation`: they are `present`, then `absent`, `times` over.

    `trained_on`: samples per class, of `own` or of `trained_classes`, that the model is trained on beforehand."""

    kind: Literal["steady", "introduction", "fluctuation"] = "steady"
    own: tuple[int, ...] = ()
    new: tuple[int, ...] = ()
    before: int = 20
    after: int = 100
    present: int = 30
    absent: int = 20
    times: int = 2
    share: float = 0.3
    trained_on: int = 150
    trained_classes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        at_least(1, before=self.before, after=self.after, present=self.present, absent=self.absent, times=self.times)
        at_least(0, trained_on=self.trained_on)
        if not self.own:
            raise ConfigError("own, the classes that are served, are missing")
        if bool(self.new) == (self.kind == "steady"):
            raise ConfigError("new classes go with introduction and fluctuation, and not with steady")

    @property
    def batches(self) -> int:
        if self.kind == "fluctuation":
            return self.before + self.times * self.present + (self.times - 1) * self.absent
        return self.before + self.after


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """`[stream]`: when there is one, every peer learns from request batches instead of from a partition's part.
    `epochs`, `lr`: of the training beforehand, from the common start, by Adam on batches of `training.batch_size`."""

    batch_size: int = 100
    epochs: int = 20
    lr: float = 1e-3
    workloads: Mapping[str, Workload] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size)
        at_least(0, epochs=self.epochs)
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"lr must be positive, not {self.lr:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One variant, resolved. `rounds`: of every peer, unless `peers.rounds` says otherwise. `says`: what this variant
    is, for the table; `control`: it is there to explain a gain away. `faults`: of every link between two peers."""

    says: str = ""
    control: bool = False
    rounds: int = 25
    data: Data = field(default_factory=Data)
    partition: Partition = field(default_factory=Partition)
    peers: Peers
    model: Model = field(default_factory=Model)
    training: Training = field(default_factory=Training)
    strategy: StrategyChoice = field(default_factory=StrategyChoice)
    topology: Topology = field(default_factory=Topology)
    pace: Pacing = field(default_factory=Pacing)
    measure: Measure = field(default_factory=Measure)
    stream: Streams | None = None
    faults: Faults | None = None

    def __post_init__(self) -> None:
        at_least(1, rounds=self.rounds)
        peers = self.peers.all
        self.topology.providers(peers)
        holders = len(peers) - len(self.peers.blank)
        if self.partition.groups and len(self.partition.groups) != holders:
            raise ConfigError(
                f"partition: {len(self.partition.groups)} groups of classes for {holders} peers with data"
            )
        for name in self.strategy.per_peer:
            if name not in peers:
                raise ConfigError(f"strategy.per_peer: there is no peer {name!r}, only {', '.join(peers)}")
        if self.stream is not None and set(self.stream.workloads) != set(peers):
            raise ConfigError(f"stream.workloads: one for each of {', '.join(peers)} is expected")

    def own(self, holders: int, classes: int) -> tuple[tuple[int, ...], ...]:
        """The own classes of each peer that holds samples; of a stream, those that it has served from the start."""
        if self.stream is not None:
            return tuple(self.stream.workloads[peer].own for peer in self.peers.all)
        return self.partition.own(holders, classes)

    def rounds_of(self, peer: str) -> int:
        return self.peers.rounds.get(peer, self.rounds)

    def model_of(self, peer: str) -> Model:
        return self.peers.models.get(peer, self.model)
