"""Every strategy by its name from the shell, between processes of their own: real gRPC, real mDNS on loopback."""

import asyncio
import contextlib
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from peerlearn.cli.main import main
from peerlearn.cli.options import settings
from peerlearn.errors import ConfigError
from peerlearn.strategies import registry

APP = """
import os

import torch
from torch import nn

import peerlearn as pl
from peerlearn.learning import gkt_models, stream
from peerlearn.learning.data import Dataset
from peerlearn.learning.heads import MultiHead

SEED = int(os.environ["SEED"])


def data(shape, classes=4, samples=4000):
    draw = torch.Generator().manual_seed(SEED)
    y = torch.randint(0, classes, (samples,), generator=draw)
    x = torch.randn(samples, *shape, generator=draw) + y.reshape(-1, *[1] * len(shape))
    return Dataset(x, y, torch.arange(samples), classes, "blobs")


def public(name="public"):
    draw = torch.Generator().manual_seed(9)
    x = torch.randn(64, 8, generator=draw)
    return Dataset(x, torch.zeros(64).long(), torch.arange(64), 4, name).unlabelled(name)


def net():
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("first", nn.Linear(8, 12))
    model.add_module("relu", nn.ReLU())
    model.add_module("penult", nn.Linear(12, 12))
    model.add_module("relu2", nn.ReLU())
    model.add_module("fc", nn.Linear(12, 4))
    return model


def plain():
    return pl.Learner(net(), data((8,)), classes=4, batch_size=4, public_sets=[public(), public("shared")])


def heads():
    torch.manual_seed(0)
    model = MultiHead(nn.Sequential(nn.Linear(8, 12), nn.ReLU()), width=12, classes=4, aux=1)
    return pl.Learner(model, data((8,)), classes=4, batch_size=4, public_sets=[public()])


def serving():
    flow = stream.Stream(data((8,)), stream.steady([0, 1, 2, 3], batches=400), batch_size=20, seed=SEED)
    return stream.StreamLearner(net(), flow, seed=SEED)


def edge():
    return pl.Learner(gkt_models.PatchEdge(), data((1, 28, 28), 10, 400), classes=10, batch_size=32)


def hub():
    network = gkt_models.PatchHub()
    return pl.Learner(network, gkt_models.no_samples((8, 7, 7), 10), classes=10)
"""
CLUE = ("threshold=0.01", "tolerance=0.001", "margin=0.02", "window=2", "reference=2", "min_samples=1")
Ends = tuple[str, tuple[str, ...]]
"""What makes the learner, and the settings of its strategy."""
EVERYBODY: dict[str, tuple[Ends, Ends]] = {
    name: (("plain", ()), ("plain", ()))
    for name in ("admm-gossip", "auto", "distillation", "fedavg", "fedavg-shared", "gossip", "isolated",
                 "isolated-balanced", "pairwise")
} | {
    "clue": (("serving", CLUE), ("serving", CLUE)),
    "cloned": (("plain", ("role=hub", "members=1", "first_epochs=1", "hub_epochs=1")),
               ("plain", ("members=1", "edge_epochs=1"))),
    "fedgkt": (("hub", ("role=hub", "hub_epochs=1")), ("edge", ("network=PatchHub",))),
    "mhd": (("heads", ("warm_up=1", "refresh=4")), ("heads", ("warm_up=1", "refresh=4"))),
}  # fmt: skip


def test_every_strategy_that_ships_is_here() -> None:
    ours = {name for name in registry.names() if registry.make(name).__class__.__module__.startswith("peerlearn.")}
    assert ours == set(EVERYBODY)


@contextlib.asynccontextmanager
async def up(folder: Path, name: str, tag: str, strategy: str, end: Ends) -> AsyncIterator[Any]:
    maker, options = end
    events = folder / f"{name}.jsonl"
    words = ["up", f"its_app:{maker}", "--name", name, "--strategy", strategy, "--group-tag", tag]
    words += [word for option in options for word in ("--set", option)]
    env = os.environ | {"SEED": str(len(name)), "OMP_NUM_THREADS": "1", "GRPC_ENABLE_FORK_SUPPORT": "0"}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), env.get("PYTHONPATH", "")])
    with (folder / f"{name}.txt").open("w") as said:  # a pipe that nobody reads would fill up and stop it
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "peerlearn", *words, "--events", str(events), cwd=folder, env=env, stdout=said,
            stderr=said,
        )  # fmt: skip
    try:
        yield process, events
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def taught(events: Path) -> set[str]:
    """Names of those of whom this peer has had knowledge."""
    lines = (events.read_text() if events.exists() else "").splitlines(keepends=True)
    fetched = (json.loads(line) for line in lines if line.endswith("}\n") and '"kind": "fetched"' in line)
    return {str(event["provider"]) for event in fetched}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", sorted(EVERYBODY))
async def test_two_processes_learn_by_this_name(strategy: str, tmp_path: Path) -> None:
    (tmp_path / "its_app.py").write_text(APP)
    tag, (one, two) = secrets.token_hex(4), EVERYBODY[strategy]
    async with (
        up(tmp_path, "amber", tag, strategy, one) as (first, first_events),
        up(tmp_path, "birch2", tag, strategy, two) as (second, second_events),
    ):
        async with asyncio.timeout(90):
            alone = strategy.startswith("isolated")
            while not (alone and second_events.exists()) and "amber" not in taught(second_events):
                for name, process in (("amber", first), ("birch2", second)):
                    assert process.returncode is None, (tmp_path / f"{name}.txt").read_text()
                await asyncio.sleep(0.1)
        assert taught(first_events) <= {"birch2"}


# ---------------------------------------------------------------- settings


def test_settings_are_values_or_words() -> None:
    said = settings(["role=hub", "members=3", "suspect=null", "weight = 0.5", "wait=true", "hub=amber=1"])
    assert said == {"role": "hub", "members": 3, "suspect": None, "weight": 0.5, "wait": True, "hub": "amber=1"}


@pytest.mark.parametrize("text", ["role", "=hub", "role=", ""])
def test_what_is_no_setting_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write OPTION=VALUE"):
        settings([text])


@pytest.mark.parametrize(
    ("strategy", "setting", "says"),
    [
        ("cloned", "role=boss", "cloned: role 'boss' is not one of 'hub', 'edge'"),
        ("cloned", "role=3", "cloned: role is to be a word, not 3"),
        ("cloned", "members=three", "cloned: members is to be a whole number, not 'three'"),
        ("cloned", "members=true", "cloned: members is to be a whole number, not True"),
        ("cloned", "suspect=often", "cloned: suspect is to be a number or null, not 'often'"),
        ("mhd", "include_self=no", "mhd: include_self is to be true or false, not 'no'"),
        ("fedgkt", "local_epoch=2", "did you mean 'local_epochs'"),
        ("fedavg", "local_epochs=0", "local_epochs must be at least 1"),
    ],
)
def test_a_setting_that_cannot_work_is_one_sentence(
    strategy: str, setting: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    assert main(["up", "tests.integration.test_saving:a_learner", "--strategy", strategy, "--set", setting]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said
