"""An experiment is one file: read strictly, run over either transport to the same bits, resumed, and reported."""

import asyncio
import dataclasses
import gc
import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from peerlearn.assembly import Assembly
from peerlearn.cli.main import main
from peerlearn.data.datasets import Split
from peerlearn.errors import ConfigError, StateError
from peerlearn.experiments.report import page, rows
from peerlearn.experiments.report import tables as report
from peerlearn.experiments.run import build, fabric, network_faults, results
from peerlearn.experiments.run import runner as running
from peerlearn.experiments.run.build import SharedData
from peerlearn.experiments.run.fabric import PeerRun
from peerlearn.experiments.run.network_faults import Kind
from peerlearn.experiments.run.recorder import Recorder
from peerlearn.experiments.run.results import Folder
from peerlearn.experiments.run.runner import Job
from peerlearn.experiments.run.workloads import adaptation
from peerlearn.experiments.spec import experiment, library
from peerlearn.experiments.spec.topology import Topology
from peerlearn.learning.dataset import Dataset
from peerlearn.learning.learner import Learner
from peerlearn.learning.snapshot import Snapshot
from peerlearn.peer import Peer
from peerlearn.testing import CLASSES, tiny_data

TINY = """
name = "tiny"
title = "three tiny peers"
rounds = 2
seeds = [0, 1]

[data]
name = "blobs"

[partition]
kind = "by-classes"
groups = [[0, 1], [2], [3]]
overlap = 0.1

[peers]
names = ["target", "a", "b"]
measured = ["target"]

[model]
name = "mlp"
options = { inputs = 8, hidden = [8, 8] }

[training]
batch_size = 16

[topology]
kind = "half"
hub = "target"

[measure]
last = 2
at_private = [0.5]

[quick]
seeds = [0]
rounds = 1

[variants.pairwise]
strategy = { name = "pairwise", options = { map_lr = 1e-2 } }

[variants.isolated]
control = true
strategy = { name = "isolated" }

[variants.central]
control = true
strategy = { name = "central", options = { passes = 2 } }

[paper]
source = "nobody"

[paper.values]
pairwise = { private = 0.5 }

[[claims]]
id = "t-1"
says = "Maps move."
formula = "min(pairwise.map_moved) > 0"

[[claims]]
id = "t-2"
says = "The impossible."
formula = "mean(pairwise.shared) > 1"
"""


@pytest.fixture(autouse=True)
def blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set of milliseconds, under a name of its own."""

    def load(folder: str | None) -> Split:
        test = tiny_data(samples=80, seed=9)
        return Split(tiny_data(samples=240, seed=8), Dataset(test.x, test.y, test.ids, CLASSES, "blobs/test"))

    monkeypatch.setitem(build._LOADERS, "blobs", load)
    build.load.cache_clear()


class Watched:
    """Remembers what it is told; stops the run where it is told to."""

    def __init__(self, *, stop_at: Job | None = None) -> None:
        self.ended: list[Job] = []
        self.found: tuple[int, int] = (0, 0)
        self.steps: list[tuple[int, int]] = []
        self._stop_at = stop_at

    def begins(self, todo: int, finished: int) -> None:
        self.found = todo, finished

    def run_begins(self, job: Job) -> None:
        return None

    def stepped(self, done: int, goal: int) -> None:
        self.steps.append((done, goal))

    def run_ended(self, job: Job, seconds: float) -> None:
        self.ended.append(job)
        if job == self._stop_at:
            raise KeyboardInterrupt


def written(folder: Path, text: str = TINY) -> Path:
    path = folder / "tiny.toml"
    path.write_text(text)
    return path


def run(path: Path, out: Path, watcher: Watched | None = None, **options: Any) -> Watched:
    watcher = watcher or Watched()
    transport = options.pop("transport", "memory")
    running.run(experiment.load(path, **options), path, out, transport=transport, watcher=watcher)
    return watcher


def finished(out: Path) -> set[str]:
    return {str(path.parent.relative_to(out)) for path in out.glob("*/*/result.json")}


# ---------------------------------------------------------------- the file


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ('[data]\nname = "blobs"', '[dta]\nname = "blobs"', "unknown key 'dta'; known are .*; did you mean 'data'"),
        ("batch_size = 16", "batchsize = 16", "training: unknown key 'batchsize'; .*; did you mean 'batch_size'"),
        ("batch_size = 16", "batch_size = 1.5", "training.batch_size: a whole number is expected"),
        ("batch_size = 16", "batch_size = 0", "batch_size must be at least 1"),
        ('kind = "half"', 'kind = "hlaf"', "'hlaf' is not one of full, half.*did you mean 'half'"),
        ('hub = "target"', 'hub = "tarmac"', "no peer 'tarmac'"),
        ("overlap = 0.1", "overlap = 2", "overlap must be a share"),
        ("groups = [[0, 1], [2], [3]]", "groups = [[0, 1], [2]]", "2 groups of classes for 3 peers"),
        ("map_lr = 1e-2", "map_rl = 1e-2", "no option 'map_rl'.*did you mean 'map_lr'"),
        ("map_lr = 1e-2", "map_lr = -1", "map_lr must be positive"),
        ('name = "pairwise"', 'name = "piarwise"', "did you mean 'pairwise'"),
        ("passes = 2", "passes = 0", "whole passes"),
        (
            '"isolated" }',
            '"isolated" }\nfaults = { loss = 2 }',
            "isolated.faults: loss must be a share between 0 and 1",
        ),
        ('"isolated" }', '"isolated" }\nfaults = { los = 0.1 }', "unknown key 'los'; .*; did you mean 'loss'"),
        ("passes = 2 } }", "passes = 2 } }\nfaults = { loss = 0.1 }", "central uses no network"),
        ('measured = ["target"]', 'measured = ["tarmac"]', "no peer 'tarmac'"),
        ("min(pairwise.map_moved) > 0", "min(piarwise.map_moved) > 0", "no variant 'piarwise'"),
        ("pairwise = { private = 0.5 }", "pairvise = { private = 0.5 }", "no variant 'pairvise'"),
        ("seeds = [0, 1]", "seeds = [0, 0]", "seeds must be different"),
        ('id = "t-2"', 'id = "t-1"', "two have the same id"),
        ('name = "tiny"', 'name = "../tiny"', "letters, digits"),
        ('name = "tiny"', 'name = "tiny', "is not TOML"),
        ("rounds = 1", "ruonds = 1", "quick: unknown key 'ruonds'"),
        ("[variants.isolated]", "[variants.isolated]\nwhat = 1", "variants.isolated: unknown key 'what'"),
        ('says = "Maps move."', "", "claims\\[0\\]: 'says' is missing"),
    ],
)
def test_what_cannot_work_is_said_with_its_place(tmp_path: Path, before: str, after: str, says: str) -> None:
    assert before in TINY
    with pytest.raises(ConfigError, match=says):
        experiment.load(written(tmp_path, TINY.replace(before, after, 1)))


def test_variants_are_differences_and_another_strategy_brings_its_own_options(tmp_path: Path) -> None:
    text = TINY + "\n[variants.more]\nsays = 'x'\nrounds = 5\nstrategy = { name = 'distillation' }\n"
    text += "topology = { kind = 'full' }\ntraining = { lr = 0.5 }\nquick = { rounds = 3 }\n"
    found = experiment.load(written(tmp_path, text)).variants["more"]
    assert (found.rounds, found.training.lr, found.training.batch_size) == (5, 0.5, 16)
    assert found.strategy.options == {}
    assert found.topology == Topology(kind="full")
    assert experiment.load(written(tmp_path, text), quick=True).variants["more"].rounds == 3
    assert experiment.load(written(tmp_path, text), quick=True).variants["pairwise"].rounds == 1
    assert experiment.load(written(tmp_path, text), seeds=3).head.seeds == (0, 1, 2)


def test_the_digest_is_of_what_decides_a_run(tmp_path: Path) -> None:
    one = experiment.load(written(tmp_path)).digest("pairwise")
    assert experiment.load(written(tmp_path, TINY.replace("[variants.isolated]", "[variants.alone]"))).digest(
        "pairwise"
    ) == one  # fmt: skip
    assert experiment.load(written(tmp_path, TINY.replace("1e-2", "1e-3"))).digest("pairwise") != one


@pytest.mark.parametrize(
    ("topology", "links"),
    [
        (Topology(kind="full"), {"p": "qrs", "q": "prs", "r": "pqs", "s": "pqr"}),
        (Topology(kind="half", hub="q"), {"p": "", "q": "prs", "r": "", "s": ""}),
        (Topology(kind="star", hub="p"), {"p": "qrs", "q": "p", "r": "p", "s": "p"}),
        (Topology(kind="chain"), {"p": "q", "q": "r", "r": "s", "s": ""}),
        (Topology(kind="cycle"), {"p": "q", "q": "r", "r": "s", "s": "p"}),
        (Topology(kind="islands", islands=2), {"p": "q", "q": "p", "r": "s", "s": "r"}),
        (Topology(kind="none"), {"p": "", "q": "", "r": "", "s": ""}),
        (Topology(kind="links", links={"r": ("p",)}), {"p": "", "q": "", "r": "p", "s": ""}),
    ],
    ids=lambda x: x.kind if isinstance(x, Topology) else "",
)
def test_topologies(topology: Topology, links: dict[str, str]) -> None:
    assert topology.providers(tuple("pqrs")) == {peer: tuple(providers) for peer, providers in links.items()}


def test_what_has_no_faults_is_the_same_run_as_before_there_were_any(tmp_path: Path) -> None:
    calm = experiment.load(written(tmp_path))
    decisive = {k: v for k, v in calm.resolved("pairwise").items() if k not in ("says", "control", "faults")}
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    assert digest.startswith(calm.digest("pairwise"))
    text = TINY.replace('"isolated" }', '"isolated" }\nfaults = { loss = 0.1 }')
    assert experiment.load(written(tmp_path, text)).digest("isolated") != calm.digest("isolated")


# ---------------------------------------------------------------- runs


def series(out: Path, variant: str) -> Any:
    run_ = json.loads((out / variant / "seed-0" / "result.json").read_text())
    timed = ("seconds_local", "seconds_transfer")
    peer = run_["peers"]["target"]
    return {k: v for k, v in peer["series"].items() if k not in timed}, peer["confusion"], peer["curve"]


def test_memory_and_grpc_give_the_same_bits(tmp_path: Path) -> None:
    path = written(tmp_path)
    for transport in ("memory", "grpc"):
        run(path, tmp_path / transport, transport=transport, quick=True)
    assert series(tmp_path / "memory", "pairwise") == series(tmp_path / "grpc", "pairwise")
    assert series(tmp_path / "memory", "pairwise") != series(tmp_path / "memory", "isolated")
    assert states(path, "memory") == states(path, "grpc")


BAD = "{ delay = 0.1, jitter = 0.1, loss = 0.05, duplication = 0.03, reordering = 0.03, corruption = 0.05 }"


def in_bad_weather(folder: Path, faults: str, *, rounds: int) -> Path:
    return written(folder, TINY.replace("map_lr = 1e-2 } }", f"map_lr = 1e-2 }} }}\nfaults = {faults}").replace(
        "rounds = 1\n", f"rounds = {rounds}\n"
    ))  # fmt: skip


def failures(out: Path) -> float:
    totals = json.loads((out / "pairwise" / "seed-0" / "result.json").read_text())["peers"]["target"]["totals"]
    return float(totals["failed_exchanges"])


def test_a_seed_decides_every_fault_and_every_bit_over_memory(tmp_path: Path) -> None:
    path = in_bad_weather(tmp_path, BAD, rounds=8)
    for out in ("one", "two"):
        run(path, tmp_path / out, quick=True)
    assert failures(tmp_path / "one") > 0
    metrics = [(tmp_path / out / "pairwise" / "seed-0" / "metrics.jsonl").read_text() for out in ("one", "two")]
    assert metrics[0] == metrics[1]
    said = report.markdown(results.stored(tmp_path / "one"))
    assert "exchanges failed by faults that the seed decides" in said
    assert "not repeatable" not in said


def test_a_slow_network_changes_nothing_in_lockstep(tmp_path: Path) -> None:
    run(written(tmp_path), tmp_path / "calm", quick=True)
    path = in_bad_weather(tmp_path, "{ delay = 0.5, jitter = 0.5, bandwidth = 1e4 }", rounds=1)
    run(path, tmp_path / "slow", quick=True)
    assert failures(tmp_path / "slow") == 0
    assert series(tmp_path / "calm", "pairwise") == series(tmp_path / "slow", "pairwise")


def test_the_same_faults_befall_real_grpc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = dataclasses.replace(network_faults.TIMING, base=1.0, stall=1.0)
    monkeypatch.setattr(network_faults, "TIMING", quick)
    path = in_bad_weather(tmp_path, "{ delay = 0.01, corruption = 0.3 }", rounds=3)
    run(path, tmp_path / "out", quick=True, transport="grpc")
    assert failures(tmp_path / "out") > 0


def states(path: Path, transport: network_faults.Kind) -> dict[str, list[float]]:
    """Of all peers after a run of its own: every weight."""
    loaded = experiment.load(path, quick=True)
    setup = loaded.variants["pairwise"]
    folder = path.parent / f"states-{transport}"
    folder.mkdir()
    given = fabric.Run(setup=setup, identity="tiny/0", seed=0, world=build.world(setup, 0), folder=folder)
    seats = asyncio.run(fabric.run(given, transport))
    return {s.name: torch.cat([t.reshape(-1) for t in s.learner.state.values()]).tolist() for s in seats}


def test_an_interrupted_experiment_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path, out = written(tmp_path), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(path, out, Watched(stop_at=Job("isolated", 0)))
    assert finished(out) == {"pairwise/seed-0", "isolated/seed-0"}
    (out / "central" / "seed-0.partial").mkdir(parents=True)
    (out / "central" / "seed-0.partial" / "half").write_text("a run that was killed")
    before = (out / "pairwise" / "seed-0" / "result.json").read_bytes()
    second = run(path, out)
    assert second.found == (4, 2)
    assert second.ended == [Job("central", 0), Job("pairwise", 1), Job("isolated", 1), Job("central", 1)]
    assert (out / "pairwise" / "seed-0" / "result.json").read_bytes() == before
    assert not list(out.glob("*/*.partial"))
    assert second.steps[-1][0] == second.steps[-1][1]
    assert run(path, out).found == (0, 6)


def test_a_directory_holds_one_experiment_and_one_set_up_per_variant(tmp_path: Path) -> None:
    path, out = written(tmp_path), tmp_path / "out"
    run(path, out, quick=True)
    with pytest.raises(StateError, match="another set-up"):
        run(path, out)
    with pytest.raises(StateError, match="holds the experiment 'tiny', not 'other'"):
        run(written(tmp_path, TINY.replace('name = "tiny"', 'name = "other"')), out, quick=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(StateError, match="holds other things"):
        run(path, tmp_path / "mine", quick=True)
    with pytest.raises(StateError, match="holds no experiment"):
        results.stored(tmp_path / "mine")


def test_a_run_directory_holds_everything(tmp_path: Path) -> None:
    path, out = written(tmp_path), tmp_path / "out"
    run(path, out, quick=True)
    folder = out / "pairwise" / "seed-0"
    names = {p.name for p in folder.iterdir()}
    assert names == {"result.json", "metrics.jsonl", "events-target.jsonl", "events-a.jsonl", "events-b.jsonl"}
    found = json.loads((folder / "result.json").read_text())
    assert found["versions"]["torch"] == torch.__version__
    assert found["config"]["strategy"]["options"] == {"map_lr": 0.01}
    target, provider = found["peers"]["target"], found["peers"]["a"]
    assert sum(map(sum, target["confusion"])) == 80
    assert target["totals"]["bytes_received"] > 2000
    assert provider["totals"]["bytes_sent"] + found["peers"]["b"]["totals"]["bytes_sent"] == pytest.approx(
        target["totals"]["bytes_received"]
    )
    assert target["totals"]["failed_exchanges"] == 0
    assert 0 < target["totals"]["seconds_per_answer"] < found["wall_seconds"]
    assert "seconds_per_answer" not in provider["totals"]
    kinds = [json.loads(line)["kind"] for line in (folder / "events-target.jsonl").read_text().splitlines()]
    assert {"started", "fetched", "trained", "published", "stopped"} <= set(kinds)
    phases = [json.loads(line)["phase"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {"local", "transfer", "round"} <= set(phases)
    assert {"private", "private_before", "on_a", "shared_at_private_0.50", "map_moved"} <= set(target["series"])


@pytest.mark.parametrize(
    ("file", "changed", "why"),
    [
        ("result.json", {"seed": "0"}, r"result\.json is not what this program writes \(seed: a whole number"),
        ("result.json", {"peers": {"target": {}}}, "peers.target: 'measured' is missing"),
        ("result.json", {"more": 1}, "unknown key 'more'"),
        ("experiment.json", {"variants": []}, "variants: a table is expected"),
        ("experiment.json", {"head": {"nom": "x"}}, "head: unknown key 'nom'"),
    ],
)
def test_a_result_that_was_altered_is_one_sentence(tmp_path: Path, file: str, changed: Any, why: str) -> None:
    path, out = written(tmp_path), tmp_path / "out"
    run(path, out, quick=True)
    place = next(out.rglob(file))
    place.write_text(json.dumps(json.loads(place.read_text()) | changed))
    with pytest.raises(StateError, match=why):
        results.stored(out)


def test_rows_are_means_over_the_last_rounds_then_over_seeds(tmp_path: Path) -> None:
    path, out = written(tmp_path), tmp_path / "out"
    run(path, out)
    stored = results.stored(out)
    row = next(r for r in rows.rows(stored) if (r.variant, r.metric) == ("isolated", "shared"))
    by_hand = [
        sum(v or 0.0 for _, v in stored.runs["isolated"][seed].peers["target"].series["shared"]) / 2 for seed in (0, 1)
    ]
    assert list(row.values.values()) == pytest.approx(by_hand)
    assert row.n == 2
    assert row.sd == pytest.approx(abs(by_hand[0] - by_hand[1]) / 2**0.5)
    held = {verdict.claim.id: verdict.holds for verdict in report.verdicts(stored)}
    assert held == {"t-1": True, "t-2": False}
    text = report.markdown(stored)
    assert "(paper 50.0)" in text
    assert "**does not hold**" in text
    assert "*central*" in text


def test_the_private_data_and_own_classes_of_a_world(tmp_path: Path) -> None:
    setup = experiment.load(written(tmp_path)).variants["pairwise"]
    given: SharedData = build.world(setup, 0)
    assert given.own == ((0, 1), (2,), (3,))
    for own, part in zip(given.own, given.parts, strict=True):
        histogram = torch.bincount(given.train.y[part], minlength=CLASSES)
        assert all(histogram[c] == 60 for c in own)
        assert all(histogram[c] < 20 for c in range(CLASSES) if c not in own)
    sizes = [len(build.learner(setup, given, name, 0).describe().histogram) for name in setup.peers.all]
    assert sizes == [CLASSES] * 3


def test_noise_and_common_samples_and_public_sets(tmp_path: Path) -> None:
    text = TINY.replace('name = "blobs"', 'name = "blobs"\ntrain_per_class = 30\npublic = 40\ncommon_share = 0.1')
    text = text.replace('measured = ["target"]', 'measured = ["target"]\nlabel_noise = { a = 1.0 }')
    setup = experiment.load(written(tmp_path, text)).variants["pairwise"]
    given = build.world(setup, 0)
    public, common = given.public_sets
    assert (len(public), len(common)) == (40, 12)
    assert not set(public.ids.tolist()) & set(given.train.ids.tolist())
    assert all(set(common.ids.tolist()) <= set(given.train.ids[part].tolist()) for part in given.parts)
    clean, noisy = (build._private(setup, given, name, n, 0) for n, name in enumerate(("target", "a")))
    truth = dict(zip(given.train.ids.tolist(), given.train.y.tolist(), strict=True))
    assert [truth[i] for i in clean.ids.tolist()] == clean.y.tolist()
    wrong = sum(truth[i] != y for i, y in zip(noisy.ids.tolist(), noisy.y.tolist(), strict=True))
    assert wrong > 0
    assert sorted(truth[i] for i in noisy.ids.tolist()) == sorted(noisy.y.tolist())


STREAM = """
name = "stream"
rounds = 14
seeds = [0]
[data]
name = "blobs"
[peers]
names = ["target", "helper"]
measured = ["target"]
[model]
name = "mlp"
options = { inputs = 8, hidden = [8, 8] }
[stream]
batch_size = 10
epochs = 2
[stream.workloads.target]
kind = "introduction"
own = [0, 1, 2]
new = [3]
before = 6
after = 8
trained_on = 8
[stream.workloads.helper]
own = [0, 1, 2, 3]
before = 6
after = 8
trained_on = 8
[topology]
kind = "half"
hub = "target"
[measure]
every = 7
last = 1
[strategy]
name = "clue"
options = { window = 2, reference = 3, margin = 0.05, min_samples = 1 }
[variants.clue]
[variants.isolated]
topology = { kind = "none" }
[[claims]]
id = "s-1"
says = "Errors are counted per batch."
formula = "mean(at(clue.error, 14)) >= 0"
"""


def test_streams_give_errors_per_batch_and_adaptation(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(written(tmp_path, STREAM), out)
    stored = results.stored(out)
    found = {(r.variant, r.metric): r.mean for r in rows.rows(stored)}
    assert len(stored.runs["clue"][0].peers["target"].series["error"]) == 14
    assert len(stored.runs["clue"][0].peers["target"].series["shared"]) == 2
    assert {("clue", m) for m in ("adaptation", "recovery", "error_after", "error_base")} <= set(found)
    assert found["isolated", "bytes_received"] == 0
    assert [verdict.holds for verdict in report.verdicts(stored)] == [True]


def test_adaptation_counts_batches_from_the_change() -> None:
    error = [0.1] * 10 + [0.6, 0.5, 0.4, 0.19, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    found = adaptation(error, 10)
    assert found["error_base"] == pytest.approx(0.1)
    assert found["adaptation"] == 6, "the mean of batches 4 to 6 is 0.13"
    assert found["recovery"] == 8, "the mean of batches 4 to 8 is 0.118"
    assert found["error_after"] == pytest.approx(sum(error[10:]) / 10)
    assert adaptation([0.1] * 5 + [0.9] * 7, 5)["recovery"] == 7, "never: the batches that were left"
    assert adaptation(error, 0) == adaptation(error[:5], 10) == {}


HUB = """
name = "hub"
rounds = 1
seeds = [0]
[data]
name = "blobs"
[partition]
kind = "iid"
[peers]
names = ["hub", "edge1", "edge2"]
measured = ["hub"]
rounds = { hub = 3 }
[model]
name = "mlp"
options = { inputs = 8, hidden = [8, 8] }
[topology]
kind = "star"
hub = "hub"
[pace]
mode = "free"
[measure]
at_private = []
last = 1
[strategy]
name = "cloned"
options = { members = 1, memory = 1, first_epochs = 1, edge_epochs = 1, hub_epochs = 1 }
[strategy.per_peer]
hub = { role = "hub" }
edge2 = { turn = 2 }
[variants.cpp]
"""


def test_a_hub_that_waits_for_others_is_measured_by_its_versions(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(written(tmp_path, HUB), out)
    (found,) = results.stored(out).runs["cpp"].values()
    assert [round_ for round_, _ in found.peers["hub"].series["shared"]] == [1, 2, 3]
    assert [round_ for round_, _ in found.peers["hub"].series["consensus"]] == [2, 3]
    assert found.peers["hub"].totals["bytes_received"] > 0


# ---------------------------------------------------------------- the commands


def test_run_and_report_end_with_one_json_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = written(tmp_path), tmp_path / "out"
    assert main(["experiment", "run", str(path), "--quick", "--out", str(out), "--json"]) == 0
    said = capsys.readouterr()
    first = json.loads(said.out.splitlines()[-1])
    assert "3/3 central, seed 0" in said.err
    assert set(first) >= {"experiment", "rows", "claims"}
    assert {row["variant"] for row in first["rows"]} == {"pairwise", "isolated", "central"}
    assert {row["metric"] for row in first["rows"]} >= {"private", "remote", "shared", "bytes_received", "seconds"}
    assert set(first["rows"][0]) == {"strategy", "variant", "metric", "mean", "sd", "n"}
    assert first["claims"][0]["holds"] is True
    assert {p.name for p in out.glob("*.png")} == {"learning.png", "curves.png", "confusion.png"}
    assert main(["report", str(out), "--out", str(tmp_path / "docs"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == first
    assert "(results/tiny-curves.png)" in (tmp_path / "docs" / "results.md").read_text()
    assert (tmp_path / "docs" / "results" / "tiny-curves.png").is_file()


SECTION = """## {name}: about {name} (data)

| claim |  | formula | bar | value |  |
| --- | ---: | ---: | ---: | ---: | ---: |
| {name}-1 | It works. | `mean(a.b) >= 0` | >= 0 | 1 | **holds** |
| {name}-2 | It \\| works well. Because. | `mean(a.b) >= 2` | >= 2 | 1 | **does not hold** |
| {name}-3 | More. | `mean(a.b)` | - | 1 | no bar |
"""


def test_a_page_of_results_keeps_the_sections_of_other_experiments() -> None:
    first = page.page({"b-two": SECTION.format(name="b-two"), "c": SECTION.format(name="c")})
    second = page.page({"a": SECTION.format(name="a"), "c": SECTION.format(name="c").replace("| 1 |", "| 3 |")}, first)
    assert SECTION.format(name="b-two").strip() in second, "the section of another experiment is as it was"
    assert second.index("## a:") < second.index("## b-two:") < second.index("## c:")
    assert second.count("## c:") == 1
    assert "| c-1 | It works. | `mean(a.b) >= 0` | >= 0 | 3 | **holds** |" in second
    head = second[: second.index("## a:")]
    assert "| [b-two](#b-two-about-b-two-data) | 1 | 1 |" in head
    assert "| all | 3 | 3 |" in head
    assert "| [c](#c-about-c-data) | c-2 | It \\| works well. Because. | >= 2 | 3 |" in head
    assert page.page({}, second) == second
    assert page.page({}) == page.page({}, page.page({}))


def test_data_that_is_not_there_skips_the_experiment_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PEERLEARN_DATA", raising=False)
    out = tmp_path / "out"
    assert main(["experiment", "run", "pairwise-table1-cifar10", "--quick", "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "CIFAR-10 is not here" in said["skipped"]
    assert said["rows"] == []


def test_unknown_files_and_transports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment", "run", "pairwise-tabel1"]) == 2
    assert "did you mean 'pairwise-table1'" in capsys.readouterr().err
    assert main(["experiment", "run", str(written(tmp_path)), "--transport", "pigeon"]) == 2
    assert "memory, grpc" in capsys.readouterr().err


def test_every_experiment_that_ships_can_be_read() -> None:
    names = {each.name for each in library.shipped()}
    assert {"pairwise-table1", "pairwise-table6", "pairwise-ablations", "pairwise-table1-cifar10"} <= names
    for each in library.shipped():
        found = experiment.load(each.path)
        assert found.name == each.name
        assert found.head.title
        assert len(found.head.seeds) >= 3
        quick = experiment.load(each.path, quick=True)
        assert len(quick.head.seeds) == 1
        assert all(setup.rounds > 0 for setup in quick.variants.values())


# ---------------------------------------------------------------- many of them in one process


@pytest.mark.parametrize("transport", ["memory", "grpc"])
def test_nothing_of_a_run_is_left_when_it_is_done(tmp_path: Path, transport: Kind) -> None:
    """Whatever the collector of the process does: models of run after run would else pile up."""
    gc.collect()
    before = left()
    gc.disable()
    try:
        run(written(tmp_path), tmp_path / "out", quick=True, transport=transport)
        assert left() - before == Counter()
    finally:
        gc.enable()


def left() -> Counter[str]:
    """How many there are of what a run is made of, by class."""
    kinds = (Peer, Assembly, Learner, PeerRun, Recorder, SharedData, Snapshot, Folder, experiment.Experiment)
    return Counter(type(each).__name__ for each in gc.get_objects() if type(each) in kinds)


@pytest.mark.parametrize(
    ("missing", "experiment_of_it", "extra"), [("river", "clue-detectors", "peerlearn[drift]")]
)  # fmt: skip
def test_experiments_are_listed_where_an_extra_is_not_installed(
    missing: str, experiment_of_it: str, extra: str
) -> None:
    """A plain install has no extras: each experiment says what it needs, and the others can be run."""
    listed = without([missing, "sklearn", "matplotlib"], "experiment", "list", "--json")
    rows_ = {row["name"]: row["skipped"] for row in json.loads(listed.stdout)["experiments"]}
    assert extra in rows_.pop(experiment_of_it)
    assert not [why for why in rows_.values() if "peerlearn[" in why]
    tried = without([missing], "experiment", "run", experiment_of_it, "--quick", "--out", "/nonexistent/there")
    assert (tried.returncode, tried.stdout) == (2, "")
    assert extra in tried.stderr
    assert tried.stderr.count("\n") == 1


def without(missing: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process in which these packages cannot be imported."""
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({missing!r})); from peerlearn.cli.main import main;"
        f"sys.exit(main({list(arguments)!r}))"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
