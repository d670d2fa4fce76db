"""scripts/bench rivals [--only NAME]... [--times N] [--folder DIR] [--json] [--markdown FILE]

Each rival lives in a virtual environment of its own below the folder, made at the first call and kept for the next;
all borrow the torch of the environment that runs this, which is large. What cannot be installed or run is skipped, and
the reason is told. `with_NAME.py` beside this file are the programs that are run: each measures, and prints JSON.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import venv
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from benchmarks import machine, markdown
from benchmarks.names import STATE_100MB, TINY
from benchmarks.payloads import make

HERE = Path(__file__).parent
LENT = ("torch", "torchgen", "functorch")
INSTALL_SECONDS, RUN_SECONDS = 900, 300


@dataclass(frozen=True)
class Rival:
    name: str
    packages: tuple[str, ...]
    """What pip is told; none: the environment that runs this."""
    about: str


RIVALS = (
    Rival("peerlearn", (), "one exchange over gRPC, state dict to live state dict"),
    Rival("hivemind", ("hivemind==1.1.12",), "load_state_from_peers over libp2p, and the copy into the model"),
    # p2pfl 0.4.4 does not import with what it asks for: these are missing, or must be older
    Rival(
        "p2pfl", ("p2pfl==0.4.4", "opendp", "pyarrow<17", "huggingface_hub<0.25"),
        "one weights command over its gRPC protocol: pickle, unary, unpickle",
    ),
    Rival("flower", ("flwr>=1.41,<2",), "one message of the deployment engine, ServerApp to ClientApp"),
)  # fmt: skip


class Skipped(Exception):
    """Why there is no figure."""


def main() -> int:
    options = _parser().parse_args()
    folder = options.folder or Path(tempfile.gettempdir()) / f"peerlearn-rivals-{os.getuid()}"
    rows = []
    with tempfile.TemporaryDirectory(prefix="peerlearn-states-") as states:
        for name in (STATE_100MB, TINY):
            _save(name, Path(states))
        for rival in RIVALS:
            if options.only and rival.name not in options.only:
                continue
            _say(f"{rival.name}: {rival.about} ...")
            rows.append(_row(rival, folder, Path(states), options.times))
            _say(f"  {rows[-1].get('skipped') or _seconds(rows[-1]['big'])}")
    text = _table(rows)
    if options.markdown is not None:
        there = options.markdown.read_text(encoding="utf-8") if options.markdown.exists() else ""
        made = f"Made by `scripts/bench rivals` on {machine.sentence(machine.describe())}.\n\n{text}"
        options.markdown.write_text(markdown.placed(there, made, markdown.RIVALS), encoding="utf-8")
    if options.json:
        sys.stdout.write(json.dumps({"machine": machine.describe(), "results": rows}) + "\n")
    else:
        sys.stdout.write(text + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench rivals", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--only", action="append", choices=[rival.name for rival in RIVALS])
    parser.add_argument("--times", type=int, default=5, help="repetitions; Flower does at most three")
    parser.add_argument("--folder", type=Path, help="where the environments are kept; default: in the temporary folder")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    return parser


def _save(name: str, states: Path) -> None:
    tensors = make(name).tensors
    np.savez(states / f"{name}.npz", **{key: tensor.numpy() for key, tensor in tensors.items()})  # type: ignore[union-attr]


def _row(rival: Rival, folder: Path, states: Path, times: int) -> dict[str, Any]:
    try:
        python = _environment(rival, folder) if rival.packages else Path(sys.executable)
        told = _measured(rival, python, states, times)
    except Skipped as why:
        return {"name": rival.name, "about": rival.about, "skipped": str(why)}
    return {"name": rival.name, "about": rival.about, **told}


def _environment(rival: Rival, folder: Path) -> Path:
    """Its interpreter; the packages are installed when they are not. Raises Skipped."""
    home = folder / rival.name
    python, done = home / "bin" / "python", home / ".installed"
    if done.exists() and done.read_text() == " ".join(rival.packages):
        return python
    venv.create(home, with_pip=True, clear=True)
    site = next((home / "lib").glob("python*/site-packages"))
    (site / "lent.pth").write_text(f"{_lent(folder)}\n")
    pin = folder / "pinned.txt"
    pin.write_text(f"torch=={distribution('torch').version}\n")
    words = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", pin, *rival.packages]
    try:
        made = subprocess.run(words, check=False, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise Skipped(f"not installed within {INSTALL_SECONDS} s") from None
    if made.returncode:
        raise Skipped(f"cannot be installed: {_last(made.stderr)}")
    done.write_text(" ".join(rival.packages))
    return python


def _lent(folder: Path) -> Path:
    """A folder that leads to this environment's torch and to nothing else of it."""
    shelf = folder / "lent"
    shelf.mkdir(parents=True, exist_ok=True)
    torch = distribution("torch")
    metadata = next(path for path in torch.files or () if path.name == "METADATA")
    here = Path(str(torch.locate_file("")))
    for name in (*LENT, metadata.parts[0]):
        if (here / name).exists() and not (shelf / name).exists():
            (shelf / name).symlink_to(here / name)
    return shelf


def _measured(rival: Rival, python: Path, states: Path, times: int) -> dict[str, Any]:
    program = HERE / f"with_{rival.name}.py"
    words = [python, program, states / f"{STATE_100MB}.npz", states / f"{TINY}.npz", str(times)]
    with tempfile.TemporaryDirectory(prefix=f"peerlearn-{rival.name}-") as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "FLWR_HOME": folder, "FLWR_TELEMETRY_ENABLED": "0"}
        environment["PATH"] = f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        if rival.packages:
            environment.pop("PYTHONPATH", None)  # what leads here leads a rival astray
        code, said, muttered = _run(words, Path(folder), environment)
    if code:
        raise Skipped(f"failed with code {code}: {_last(muttered or said)}")
    told: dict[str, Any] = json.loads(said.splitlines()[-1])
    return told


def _run(words: list[Any], folder: Path, environment: dict[str, str]) -> tuple[int, str, str]:
    """Code, stdout and stderr. Ends all that it has started: daemons that outlive it too. Raises Skipped."""
    out, err = folder / "stdout", folder / "stderr"
    with out.open("wb") as said, err.open("wb") as muttered:
        process = subprocess.Popen(
            words, stdout=said, stderr=muttered, cwd=folder, env=environment, start_new_session=True
        )
        try:
            code = process.wait(RUN_SECONDS)
        except subprocess.TimeoutExpired:
            raise Skipped(f"not done within {RUN_SECONDS} s") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return code, out.read_text(errors="replace"), err.read_text(errors="replace")


def _last(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")


def _table(rows: list[dict[str, Any]]) -> str:
    ours = next((row for row in rows if row["name"] == "peerlearn" and "skipped" not in row), None)
    lines = [
        "| who | what | 100 MB state | times ours | tiny state | times ours | n |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        who = f"{row['name']} {row.get('version', '')}".strip()
        if "skipped" in row:
            lines.append(f"| {who} | {row['about']} | skipped: {row['skipped']} | | | | |")
            continue
        cells = [who, row["about"]]
        for size in ("big", "tiny"):
            times = f"{median(row[size]) / median(ours[size]):.1f}" if ours is not None else ""
            cells += [_seconds(row[size]), times]
        lines.append(f"| {' | '.join(cells)} | {len(row['big'])}, {len(row['tiny'])} |")
    return "\n".join(lines)


def _seconds(took: list[float]) -> str:
    return f"{median(took):.3g} s ({min(took):.3g} to {max(took):.3g})"


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
