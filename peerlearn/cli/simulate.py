"""`peerlearn simulate`: whole peers under a virtual clock, from a seed; says what broke, and how to see it again."""

import re
from dataclasses import dataclass, replace
from typing import cast

from peerlearn.cli import choices
from peerlearn.cli.output import Output
from peerlearn.errors import ConfigError, InvariantBroken
from peerlearn.simulation import report, world
from peerlearn.simulation.scenario import Kind, Scenario


@dataclass(frozen=True, slots=True)
class SimulateOptions:
    peers: int
    hours: float
    faults: str
    seed: int
    seeds: str | None
    beat: float | None
    strategy: str


def simulate(options: SimulateOptions, output: Output) -> None:
    """Run one seed after another, up to the first that breaks an invariant. Raises ConfigError, InvariantBroken."""
    choices.strategy(options.strategy)
    scenario = Scenario(
        peers=options.peers, hours=options.hours, faults=cast("Kind", options.faults), seed=options.seed,
        beat=options.beat, strategy=options.strategy,
    )  # fmt: skip
    outcomes = []
    for seed in _seeds(options):
        outcomes.append(world.simulate(replace(scenario, seed=seed)))
        if outcomes[-1].breach is not None:
            break
    for line in report.lines(outcomes):
        output.say(line)
    found = [report.as_object(outcome) for outcome in outcomes]
    output.result(found[0] if options.seeds is None else {"runs": found})
    last = outcomes[-1]
    if last.breach is not None:
        raise InvariantBroken(
            f"seed {last.scenario.seed} breaks the rule {last.breach.rule!r} after {last.breach.at:.3f} virtual "
            f"seconds: {last.breach.sentence}; to see it again: {last.scenario.command}"
        )


def _seeds(options: SimulateOptions) -> range:
    if options.seeds is None:
        return range(options.seed, options.seed + 1)
    match = re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", options.seeds)
    if match is None or int(match[1]) > int(match[2]):
        raise ConfigError(f"--seeds takes FIRST..LAST, for example 0..19, not {options.seeds!r}")
    return range(int(match[1]), int(match[2]) + 1)
