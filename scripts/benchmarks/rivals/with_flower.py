"""Flower: a SuperLink, a SuperNode, and an app whose server sends its state to the one client; timed in the ServerApp,
from building the message to the reply that says that the client has copied it into its own arrays."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

MOST = 3
"""Every message costs seconds of starting processes and polling."""

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "bench"
version = "1.0.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["bench"]

[tool.flwr.app]
publisher = "bench"

[tool.flwr.app.components]
serverapp = "bench.server:app"
clientapp = "bench.client:app"

[tool.flwr.app.config]
big = "{big}"
tiny = "{tiny}"
times = {times}
out = "{out}"
"""

SERVER = """
import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.2)
    told = {"big": [], "tiny": []}
    for size in ("tiny", "big"):
        with np.load(config[size]) as file:
            state = {name: np.array(file[name]) for name in file.files}
        for number in range(int(config["times"])):
            start = time.perf_counter()
            arrays = ArrayRecord({name: Array(array) for name, array in state.items()})
            content = RecordDict({"arrays": arrays, "config": ConfigRecord({"number": number})})
            (reply,) = grid.send_and_receive([Message(content, nodes[0], "train")], timeout=300)
            if reply.has_error():
                raise RuntimeError(str(reply.error))
            told[size].append(time.perf_counter() - start)
            Path(config["out"]).with_suffix(".part").write_text(json.dumps(told))
    Path(config["out"]).with_suffix(".part").rename(config["out"])
"""

CLIENT = """
import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    for array in message.content["arrays"].values():
        own = np.zeros(array.shape, array.dtype)
        np.copyto(own, array.numpy())
    return Message(RecordDict({"done": ConfigRecord({"ok": 1})}), reply_to=message)
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    sys.exit("flower-superlink does not listen")


def started(*words: str) -> subprocess.Popen[bytes]:
    log = Path(f"{words[0]}.log").open("wb")  # noqa: SIM115  the process's own until it ends
    return subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)


def main(big: str, tiny: str, times: int) -> None:
    out = Path("told.json").resolve()
    app = Path("app")
    (app / "bench").mkdir(parents=True)
    (app / "pyproject.toml").write_text(PROJECT.format(big=big, tiny=tiny, times=min(times, MOST), out=out))
    for name, text in (("__init__", ""), ("server", SERVER), ("client", CLIENT)):
        (app / "bench" / f"{name}.py").write_text(text)
    port = free_port()
    Path(os.environ["FLWR_HOME"], "config.toml").write_text(
        f'[superlink]\ndefault = "bench"\n\n[superlink.bench]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    processes = [started("flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port))]
    try:
        wait_for(port, processes[0])
        node = ("--insecure", "--superlink", f"127.0.0.1:{port}", "--port", str(free_port()))
        processes.append(started("flower-supernode", *node))
        subprocess.run(["flwr", "run", str(app)], check=True, stdout=sys.stderr, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 500
        while not out.exists():
            if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
                logs = " / ".join(log.read_text()[-300:].replace("\n", " ") for log in Path().glob("*.log"))
                sys.exit(f"no result came: {logs}")
            time.sleep(0.5)
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    sys.stdout.write(json.dumps({"version": version("flwr"), **json.loads(out.read_text())}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
