"""A query's `select`: a small JSON object in bytes, bounded in size and depth before it is parsed."""

import json
from collections.abc import Mapping

from peerlearn.config import Limits
from peerlearn.errors import Corrupt, KnowledgeError, Oversized
from peerlearn.knowledge import Json


def dump_select(select: Mapping[str, Json], limits: Limits) -> bytes:
    """Canonical: keys sorted, no spaces, no NaN. Empty for an empty object. Raises KnowledgeError."""
    if not select:
        return b""
    nested = any(isinstance(value, dict | list) for value in select.values())
    if nested and _deeper_than(dict(select), limits.select_depth):
        raise KnowledgeError(f"the query's select is nested more than {limits.select_depth} deep: make it flatter")
    try:
        data = _CANONICAL.encode(select).encode()
    except (TypeError, ValueError) as exc:
        raise KnowledgeError(f"the query's select is not plain JSON: {exc}") from exc
    if len(data) > limits.select_bytes:
        raise KnowledgeError(f"the query's select has {len(data)} bytes, at most {limits.select_bytes} can be sent")
    return data


def load_select(data: bytes, limits: Limits) -> dict[str, Json]:
    """Raises Oversized before anything is parsed, and Corrupt."""
    if not data:
        return {}
    if len(data) > limits.select_bytes:
        raise Oversized(f"the query's select has {len(data)} bytes, this peer takes at most {limits.select_bytes}")
    brackets = data.count(b"[") + data.count(b"{")
    if brackets > limits.select_depth and _depth(data) > limits.select_depth:
        raise Oversized(f"the query's select is nested more than {limits.select_depth} deep")
    try:
        value = _STRICT.decode(data.decode())
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()  # half surrogates: printing them would fail
    except ValueError as exc:
        raise Corrupt("the query's select is not JSON") from exc
    if not isinstance(value, dict):
        raise Corrupt("the query's select is not a JSON object")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
_STRICT = json.JSONDecoder(parse_constant=_no_constant)


def _deeper_than(value: Json, most: int) -> bool:
    """Without recursion, so that a value that holds itself ends too."""
    level: list[Json] = [value]
    for _ in range(most + 1):
        inner: list[Json] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        if not any(isinstance(item, dict | list) for item in level):
            return False
        level = inner
    return True


def _depth(data: bytes) -> int:
    """How deep brackets nest outside strings."""
    depth = deepest = 0
    inside = escaped = False
    for byte in data:
        if inside:
            inside, escaped = escaped or byte != 0x22, not escaped and byte == 0x5C
        elif byte == 0x22:
            inside = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest
