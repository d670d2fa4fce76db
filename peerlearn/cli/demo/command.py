"""`peerlearn demo`: separate processes on this machine find one another by mDNS and learn from one another."""

import asyncio
import json
import platform
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from peerlearn import atomicfile
from peerlearn.cli import choices
from peerlearn.cli.demo import picture
from peerlearn.cli.demo.children import Children
from peerlearn.cli.demo.progress import DemoProgress
from peerlearn.cli.demo.view import DemoView, LinesView, TableView, accuracy_table
from peerlearn.cli.output import Output, finite
from peerlearn.errors import StateError
from peerlearn.events import Event

MOST_PEERS = 10
VERSIONS_OF = ("peerlearn", "torch", "numpy", "grpcio", "protobuf", "zeroconf")


@dataclass(frozen=True, slots=True)
class DemoOptions:
    strategy: str
    rounds: int | None
    peers: int
    seed: int
    out: Path | None


def demo(options: DemoOptions, output: Output) -> None:
    """Raises ConfigError, StateError, and ChildFailed with the exit code of the process that failed."""
    began = time.monotonic()
    choices.strategy(options.strategy)
    choices.between(2, options.peers, MOST_PEERS, "--peers")
    if options.rounds is not None:
        choices.at_least(1, options.rounds, "--rounds")
    run_dir = _run_directory(options)
    output.say(
        f"{options.peers} processes on this machine find one another by mDNS and learn by {options.strategy}; "
        f"run directory {run_dir}"
    )
    rows = [DemoProgress(name=f"peer {number}") for number in range(options.peers)]
    _write(run_dir / "config.json", _config(options))
    asyncio.run(_learn(options, run_dir, rows, _view(output, rows)))
    result = _result(options, run_dir, rows, time.monotonic() - began)
    _write(run_dir / "results.json", result)
    _tell(result, run_dir, output)


async def _learn(options: DemoOptions, run_dir: Path, rows: Sequence[DemoProgress], view: DemoView) -> None:
    """The group tag is random, so that other demos on this LAN neither see nor disturb this one."""
    tag = f"demo-{secrets.token_hex(8)}"
    specs = [
        {
            "number": number, "peers": options.peers, "strategy": options.strategy, "rounds": options.rounds,
            "seed": options.seed, "group_tag": tag, "out": str(run_dir),
        }
        for number in range(options.peers)
    ]  # fmt: skip

    def heard(number: int, event: Event) -> None:
        rows[number].seen(event)
        view.seen(number, event)

    def muttered(number: int, line: str) -> None:
        with (run_dir / "stderr.txt").open("a", encoding="utf-8") as file:
            file.write(f"{rows[number].name}: {line}\n")

    with view:
        await Children(specs, heard=heard, muttered=muttered).run()


def _view(output: Output, rows: Sequence[DemoProgress]) -> DemoView:
    return TableView(output.console, rows) if output.live else LinesView(output, rows)


# ---------------------------------------------------------------- the run directory


def _run_directory(options: DemoOptions) -> Path:
    """A fresh one. Raises StateError when it cannot be made, or already holds a run."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path = options.out or Path("runs") / f"demo-{options.strategy}-{stamp}-{secrets.token_hex(2)}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        taken = any(path.iterdir())
    except OSError as exc:
        raise StateError(f"cannot use {path} as run directory: {exc.strerror}; choose another with --out") from exc
    if taken:
        raise StateError(f"{path} is not empty: a demo writes into a directory of its own, choose another with --out")
    return path.resolve()


def _config(options: DemoOptions) -> dict[str, Any]:
    return {
        "command": "demo",
        "strategy": options.strategy,
        "rounds": options.rounds,
        "peers": options.peers,
        "seed": options.seed,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in VERSIONS_OF},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _write(path: Path, value: Mapping[str, Any]) -> None:
    try:
        atomicfile.write(path, (json.dumps(finite(value), indent=1) + "\n").encode(), mode=atomicfile.SHARED)
    except OSError as exc:
        raise StateError(f"cannot write {path}: {exc.strerror}") from exc


# ---------------------------------------------------------------- the result


def _result(options: DemoOptions, run_dir: Path, rows: Sequence[DemoProgress], seconds: float) -> dict[str, Any]:
    written = [json.loads((run_dir / f"result-{row.name}.json").read_text(encoding="utf-8")) for row in rows]
    return {
        "strategy": options.strategy,
        "rounds": rows[0].rounds,
        "seconds": round(seconds, 2),
        "bytes_received": sum(row.received_bytes for row in rows),
        "run_dir": str(run_dir),
        "peers": [
            {
                "name": peer["name"],
                "classes": peer["classes"],
                "learned_from": sorted(row.taught_by),
                "isolated": peer["isolated"],
                "final": peer["final"],
                "confusion": peer["confusion"],
            }
            for row, peer in zip(rows, written, strict=True)
        ],
    }


def _tell(result: Mapping[str, Any], run_dir: Path, output: Output) -> None:
    output.console.print(accuracy_table(result))
    for peer in result["peers"]:
        output.say(f"{peer['name']} learned from {', '.join(peer['learned_from']) or 'nobody'}")
    output.say(f"{result['bytes_received'] / 1e6:.1f} MB received in {result['seconds']:.0f} s")
    drawn = picture.confusion_png(result["peers"], run_dir / "confusion.png")
    if drawn is None:
        output.say("No picture: matplotlib is not installed; pip install 'peerlearn[plot]'")
    else:
        output.say(f"Confusion matrices: {drawn}")
    output.say(f"Events, checkpoints and results: {run_dir}")
    peers = [{key: value for key, value in peer.items() if key != "confusion"} for peer in result["peers"]]
    output.result({**result, "peers": peers})
