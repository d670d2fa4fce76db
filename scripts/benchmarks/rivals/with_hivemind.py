"""hivemind: two processes with a DHT node each; one downloads the other's state and copies it into its own tensors."""

import json
import os
import signal
import subprocess
import sys
import time

os.environ.setdefault("HIVEMIND_LOGLEVEL", "ERROR")

import hivemind
import numpy as np
import torch
from hivemind.averaging import DecentralizedAverager

HERE = ["/ip4/127.0.0.1/tcp/0"]
PATIENCE = 60.0


def tensors_of(path: str) -> list[torch.Tensor]:
    """As float32, which is what it averages; batch counters too."""
    with np.load(path) as file:
        return [torch.from_numpy(np.array(file[name])).float() for name in file.files]


def averager(dht: hivemind.DHT, tensors: list[torch.Tensor]) -> DecentralizedAverager:
    return DecentralizedAverager(
        tensors, dht, start=True, prefix="bench", allow_state_sharing=True, declare_state_period=1.0
    )


def give(path: str) -> None:
    dht = hivemind.DHT(start=True, host_maddrs=HERE)
    giver = averager(dht, tensors_of(path))
    sys.stdout.write(json.dumps([str(address) for address in dht.get_visible_maddrs()]) + "\n")
    sys.stdout.flush()
    giver.join()  # until it is killed


def take(path: str, times: int, known: list[str]) -> list[float]:
    model = [torch.zeros_like(tensor) for tensor in tensors_of(path)]
    dht = hivemind.DHT(start=True, initial_peers=known, host_maddrs=HERE)
    taker = averager(dht, [torch.zeros_like(tensor) for tensor in model])
    took: list[float] = []
    deadline = time.monotonic() + PATIENCE
    while len(took) < times + 1 and time.monotonic() < deadline:
        start = time.perf_counter()
        loaded = taker.load_state_from_peers(timeout=PATIENCE)
        if loaded is None:  # nobody has declared a state yet
            time.sleep(0.5)
            continue
        for own, new in zip(model, loaded[1], strict=True):
            own.copy_(new)
        took.append(time.perf_counter() - start)
    taker.shutdown()
    dht.shutdown()
    return took[1:]


def measured(path: str, times: int) -> list[float]:
    words, pipe = [sys.executable, __file__, "give", path], subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, start_new_session=True) as giver:
        try:
            assert giver.stdout is not None
            return take(path, times, json.loads(giver.stdout.readline()))
        finally:
            os.killpg(giver.pid, signal.SIGKILL)  # with its daemons


if __name__ == "__main__":
    if sys.argv[1] == "give":
        give(sys.argv[2])
    else:
        repeats = int(sys.argv[3])
        big, tiny = measured(sys.argv[1], repeats), measured(sys.argv[2], repeats)
        if not big or not tiny:
            sys.exit("no peer's state was found within a minute")
        sys.stdout.write(json.dumps({"version": hivemind.__version__, "big": big, "tiny": tiny}) + "\n")
        sys.stdout.flush()
        os._exit(0)  # its daemons' exit handlers can take minutes
