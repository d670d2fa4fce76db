"""The example of a third party's method keeps to the contract, is found by entry point, and runs as it is written."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from peerlearn.errors import KnowledgeError
from peerlearn.knowledge import Outputs, Params
from peerlearn.learning.learner import Learner
from peerlearn.strategies import registry
from peerlearn.strategies.isolated import Isolated
from peerlearn.testing import (
    bits,
    conformance,
    everything,
    received,
    tiny_card,
    tiny_id,
    tiny_learner,
)
from peerlearn.types import epochs, steps

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_strategy.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("own_strategy", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["own_strategy"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pair(example: ModuleType) -> list[tuple[str, Learner, Any]]:
    made = [(name, tiny_learner(seed, start=seed), example.Mutual()) for seed, name in enumerate(("amber", "birch"))]
    for _, learner, _ in made:
        learner.fit(epochs(2))
    return made


def test_a_step_is_the_gradient_of_the_paper_s_loss(pair, example) -> None:
    _, birch = pair
    mutual = example.Mutual(weight=0.5)
    learner = tiny_learner(0)
    learner.optimizer = torch.optim.SGD(learner.model.parameters(), lr=0.1)
    twin = tiny_learner(0)
    twin.optimizer = torch.optim.SGD(twin.model.parameters(), lr=0.1)
    mutual.absorb(learner, [received(("cedar", learner, mutual), birch)])
    report = mutual.transfer(learner, steps(2))
    assert (report.steps, report.providers) == (2, (tiny_id("birch"),))
    teacher = birch[1].build(birch[1].state)
    for batch in twin.batches(steps(2)):
        own, other = twin.model(batch.x).log_softmax(dim=1), teacher(batch.x).log_softmax(dim=1)
        mimicry = (other.exp() * (other - own)).sum(dim=1).mean()
        twin.step(F.nll_loss(own, batch.y) + 0.5 * mimicry)
    for name, tensor in twin.state.items():
        torch.testing.assert_close(learner.state[name], tensor)


@pytest.mark.parametrize("number", range(len(conformance.strategy(Isolated))))
def test_it_keeps_to_the_contract(example, number: int) -> None:
    conformance.strategy(example.Mutual)[number]()


def test_it_does_not_learn_from_another_architecture(pair) -> None:
    amber, birch = pair
    other = replace(tiny_card(*birch), architecture="another")
    assert amber[2].misfit(amber[1], other) == "birch has another architecture"


def test_it_is_made_of_public_names_only() -> None:
    modules = set()
    for node in ast.walk(ast.parse(EXAMPLE.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module or "")
    assert {name for name in modules if name.startswith("peerlearn")} == {"peerlearn", "peerlearn.extending"}


def test_foreign_knowledge_is_refused_and_changes_nothing(pair) -> None:
    amber, birch = pair
    good = received(amber, birch)
    outputs = Outputs(dataset="d", fingerprint="f", ids=torch.arange(2), tensors={}, version=1)
    assert isinstance(good.knowledge, Params)
    torn = replace(good.knowledge, tensors={})
    before = everything(amber[1]), bits(amber[2].state_dict())
    for bad in (outputs, torn, replace(good.knowledge, architecture="f" * 64)):
        with pytest.raises(KnowledgeError):
            amber[2].absorb(amber[1], [good, replace(good, knowledge=bad)])
    assert (everything(amber[1]), bits(amber[2].state_dict())) == before


def test_it_is_found_by_the_entry_point_that_its_docstring_shows(example, monkeypatch) -> None:
    line = re.search(r'^    (\w+) = "my_package\.mutual:(\w+)"$', example.__doc__, re.MULTILINE)
    assert line is not None
    point = EntryPoint(line[1], f"own_strategy:{line[2]}", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    made = registry.make("mutual", weight=0.25)
    assert isinstance(made, example.Mutual)
    assert made.weight == 0.25
    assert made.name == line[1]


def test_it_runs_as_it_is_written() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    right = dict(re.findall(r"^(\w+): (\d+\.\d)% after 3 rounds", done.stdout, re.MULTILINE))
    assert set(right) == {"amber", "birch"}
    assert all(float(share) > 40 for share in right.values()), done.stdout
