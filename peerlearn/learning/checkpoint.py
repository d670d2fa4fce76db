"""State trees on disk: tensors and plain values in one safetensors file, written as a whole or not at all. No pickle.

A tree is made of dicts (keys: strings or ints), lists, tuples, strings, numbers, booleans, None and tensors. Tensors
are stored by number. Everything else is JSON in the file's metadata, with `{"$tensor": n}` in the place of a tensor.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from peerlearn import atomicfile
from peerlearn.errors import StateError

_FORMAT = "peerlearn state 1"
"""Marks our files and the version of their structure."""


def save(directory: Path | str, tree: Mapping[str, Any], *, name: str = "state", former: str = "") -> Path:
    """Write `directory/name.safetensors`, readable by this user only. The directory is made if missing. Returns the
    path.

    The new file replaces the old one in one step, after it has reached the disk: a crash leaves either the old or the
    new, whole. `former`: a name by which the old file is kept. A failed write leaves the old file and frees the space
    of the new one. Only one process at a time may save to a directory. Raises StateError.
    """
    directory = Path(directory)
    target = _path(directory, name)
    kept = _path(directory, former) if former else None
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_flat(tree, tensors))
    metadata = {"format": _FORMAT, "tree": text, "digest": _digest(tensors, text)}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path in (target, *([] if kept is None else [kept])):
            atomicfile.remove_drafts(path)  # left by a killed process; each is as large as the model
        with atomicfile.replacing(target, former=kept) as file:
            file.write(to_bytes(tensors, metadata))
    except OSError as exc:
        raise StateError(
            f"cannot write {target}: {exc.strerror or exc}; free space or choose another directory"
        ) from exc
    return target


def load(directory: Path | str, *, name: str = "state") -> dict[str, Any]:
    """The saved tree, tensors on the CPU. Raises StateError when the file is missing, foreign, truncated or altered."""
    path = _path(directory, name)
    if not path.is_file():
        raise StateError(f"there is no {path.name} in {path.parent}: nothing was saved there, or the path is wrong")
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as exc:
        raise StateError(f"{path} is damaged or cut short and cannot be read: {exc}") from exc
    if metadata.get("format") != _FORMAT:
        raise StateError(f"{path} was not written by this version of peerlearn, or is no state of a peer at all")
    text = metadata.get("tree", "")
    if metadata.get("digest") != _digest(tensors, text):
        raise StateError(f"{path} was altered after it was saved: its contents do not match their checksum")
    tree = _grown(json.loads(text), tensors)
    if not isinstance(tree, dict):
        raise StateError(f"{path} holds a {type(tree).__name__} where a state tree should be")
    return tree


def exists(directory: Path | str, *, name: str = "state") -> bool:
    """True if there is a file of this name, sound or damaged."""
    return os.path.lexists(_path(directory, name))


def remove(directory: Path | str, *, name: str = "state") -> None:
    """Remove this file, if it is there. Raises StateError."""
    path = _path(directory, name)
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        raise StateError(f"cannot remove {path}: {exc.strerror or exc}") from exc


def rename(directory: Path | str, name: str, other: str) -> None:
    """Rename a file, in place of any file that had the other name. Raises StateError."""
    path = _path(directory, name)
    try:
        path.replace(_path(directory, other))
    except OSError as exc:
        raise StateError(f"cannot rename {path}: {exc.strerror or exc}") from exc


def _path(directory: Path | str, name: str) -> Path:
    return Path(directory) / f"{name}.safetensors"


def _flat(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        key = str(len(tensors))
        tensors[key] = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        return {"$tensor": key}
    if isinstance(value, Mapping):
        if all(isinstance(k, str) and not k.startswith("$") for k in value):
            return {k: _flat(v, tensors) for k, v in value.items()}
        for key in value:
            if not isinstance(key, str | int):
                raise StateError(f"a key of type {type(key).__name__} cannot be saved, only strings and numbers")
        return {"$items": [[k, _flat(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list):
        return [_flat(v, tensors) for v in value]
    if isinstance(value, tuple):
        return {"$tuple": [_flat(v, tensors) for v in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise StateError(f"a {type(value).__name__} cannot be saved: state is tensors, numbers, strings, lists and dicts")


def _grown(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_grown(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$tuple" in value:
        return tuple(_grown(v, tensors) for v in value["$tuple"])
    if "$items" in value:
        return {k: _grown(v, tensors) for k, v in value["$items"]}
    return {k: _grown(v, tensors) for k, v in value.items()}


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = xxhash.xxh3_128(text.encode())
    for key in sorted(tensors):
        tensor = tensors[key]
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
