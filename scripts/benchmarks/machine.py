"""Where it was measured."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

VERSIONS_OF = ("peerlearn", "grpcio", "protobuf", "torch", "numpy", "lz4")


def describe() -> dict[str, Any]:
    return {
        "cpu": _line_of(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_gb": _memory_gb(),
        "system": f"{platform.system()} {platform.release()}",
        "python": sys.version.split()[0],
        "versions": {name: _version(name) for name in VERSIONS_OF},
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def sentence(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {text}" for name, text in machine["versions"].items() if text)
    return (
        f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_gb']} GB, {machine['system']}, "
        f"Python {machine['python']}, {versions}; load before: {machine['load_before']}"
    )


def _line_of(path: Path, key: str) -> str:
    if not path.exists():
        return ""
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == key), "")


def _memory_gb() -> int | None:
    kilobytes = _line_of(Path("/proc/meminfo"), "MemTotal").split()
    return round(int(kilobytes[0]) / 1e6) if kilobytes else None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
