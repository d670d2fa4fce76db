"""Inputs for the fuzzer: real calls, recorded, and changed by chance. The same seed gives the same inputs."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from peerlearn.wire.seal import sealed
from peerlearn.wire.v1 import fabric_pb2 as pb

Call = Literal["Introduce", "Watch", "Exchange", "UnaryExchange"]
"""`UnaryExchange`: an exchange of one frame each way."""

_KINDS: dict[Call, type[Message]] = {
    "Introduce": pb.Introduction,
    "Watch": pb.WatchRequest,
    "Exchange": pb.Frame,
    "UnaryExchange": pb.Frame,
}
_NUMBERS = (0, 1, 2, 7, 127, 128, 255, 65535, 2**20, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**64 - 1)
_TEXTS = (
    "",
    "x",
    "\x00",
    "params",
    "outputs",
    "nothing",
    "int8",
    "bfloat16",
    "float32",
    "ü" * 40,
    "a" * 300,
    "9" * 5000,
)
_SELECTS = (
    b"{}",
    b"[]",
    b"null",
    b"{",
    b"[" * 100,
    b'{"layers":[]}',
    b'{"layers":["penult"]}',
    b'{"a":1e999}',
    b"\xff",
)
_MOST_BYTES = 200_000


@dataclass(frozen=True)
class Input:
    """One call: the messages that its client sends."""

    call: Call
    messages: tuple[bytes, ...]

    def as_json(self) -> dict[str, Any]:
        return {"call": self.call, "messages": [message.hex() for message in self.messages]}

    @classmethod
    def of_json(cls, about: dict[str, Any]) -> "Input":
        return cls(about["call"], tuple(bytes.fromhex(message) for message in about["messages"]))


@dataclass(frozen=True)
class Case:
    """An input that has done harm, and all that is needed to send it again."""

    tag: str
    """Of the group that it was said in."""
    introduction: Input
    """By the one who said it."""
    culprit: Input
    why: str

    def save(self, path: Path) -> None:
        about = {
            "why": self.why, "tag": self.tag, "introduction": self.introduction.as_json(),
            "culprit": self.culprit.as_json(),
        }  # fmt: skip
        path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Case":
        about = json.loads(path.read_text(encoding="utf-8"))
        introduction, culprit = Input.of_json(about["introduction"]), Input.of_json(about["culprit"])
        return cls(about["tag"], introduction, culprit, about["why"])


def mutated(seeds: Sequence[Input], rng: random.Random) -> Input:
    """One of the seeds with one to four things changed."""
    seed = rng.choice(seeds)
    messages = list(seed.messages)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if seed.call == "Exchange" and (not messages or rng.random() < 0.2):
            _shuffle(messages, seeds, rng)
            continue
        at = rng.randrange(len(messages)) if rng.random() < 0.5 else 0
        change = rng.choice(_CHANGES)
        messages[at] = change(messages[at], seed.call, seeds, rng)[:_MOST_BYTES]
        if rng.random() < 0.7:
            messages[at] = _resealed(messages[at], seed.call)
    return Input(seed.call, tuple(messages))


def _shuffle(messages: list[bytes], seeds: Sequence[Input], rng: random.Random) -> None:
    """Frames dropped, repeated, reordered, or those of another exchange."""
    others = [message for seed in seeds if seed.call == "Exchange" for message in seed.messages]
    what = rng.randrange(4)
    if what == 0 and messages:
        messages.pop(rng.randrange(len(messages)))
    elif what == 1 and messages:
        messages.insert(rng.randrange(len(messages) + 1), rng.choice(messages))
    elif what == 2:
        rng.shuffle(messages)
    else:
        messages.insert(rng.randrange(len(messages) + 1), rng.choice(others))


def _resealed(data: bytes, call: Call) -> bytes:
    """With a right checksum, so that what is behind it gets to see the change."""
    if _KINDS[call] is pb.Frame and data[:1] != b"\x0a":
        return data
    try:
        message = _KINDS[call].FromString(data)
    except DecodeError:
        return sealed(data)
    if isinstance(message, pb.Frame | pb.Introduction | pb.WatchRequest):
        message.ClearField("check")
    return sealed(message.SerializeToString())


def _flip(data: bytes, call: Call, seeds: Sequence[Input], rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8)) if out else 0):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _cut(data: bytes, call: Call, seeds: Sequence[Input], rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _drop(data: bytes, call: Call, seeds: Sequence[Input], rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.randrange(1, 16) :]


def _insert(data: bytes, call: Call, seeds: Sequence[Input], rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 8, 100, 3000))) + data[at:]


def _repeat(data: bytes, call: Call, seeds: Sequence[Input], rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    piece = data[start : start + rng.randrange(1, 64)]
    return data[:start] + piece * rng.choice((2, 3, 50)) + data[start:]


def _splice(data: bytes, call: Call, seeds: Sequence[Input], rng: random.Random) -> bytes:
    other = rng.choice(rng.choice(seeds).messages)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _number(data: bytes, call: Call, seeds: Sequence[Input], rng: random.Random) -> bytes:
    """A length or a number written as another one, whatever stands there."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + _varint(rng.choice(_NUMBERS)) + data[at + 1 :]


def _field(data: bytes, call: Call, seeds: Sequence[Input], rng: random.Random) -> bytes:
    """A field of the message, at any depth, set to something else."""
    try:
        message = _KINDS[call].FromString(data)
    except DecodeError:
        return _flip(data, call, seeds, rng)
    _tamper(message, rng)
    return message.SerializeToString()


def _size(data: bytes, call: Call, seeds: Sequence[Input], rng: random.Random) -> bytes:
    """A header that lies about sizes, of its body or of a tensor, alone or so that they agree."""
    if _KINDS[call] is not pb.Frame or data[:1] != b"\x0a":
        return _field(data, call, seeds, rng)
    try:
        frame = pb.Frame.FromString(data)
    except DecodeError:
        return _flip(data, call, seeds, rng)
    header = frame.header
    by = rng.choice((-4, -1, 1, 4, 1000, 2**20, 2**40))
    if header.tensors and rng.random() < 0.7:
        tensor = rng.choice(header.tensors)
        del tensor.shape[1:]
        tensor.stored = min(2**64 - 1, max(0, tensor.stored + by))
        tensor.shape[:] = [tensor.stored]
    if rng.random() < 0.7:
        header.body_bytes = min(2**64 - 1, max(0, header.body_bytes + by * 4))
    return frame.SerializeToString()


_CHANGES: tuple[Callable[[bytes, Call, Sequence[Input], random.Random], bytes], ...] = (
    _flip, _cut, _drop, _insert, _repeat, _splice, _number, _field, _field, _field, _size, _size,
)  # fmt: skip


def _tamper(message: Message, rng: random.Random) -> None:
    fields: list[Any] = list(message.DESCRIPTOR.fields)
    field: FieldDescriptor = rng.choice(fields)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        message.ClearField(field.name)
    elif field.is_repeated:
        _tamper_list(getattr(message, field.name), field, rng)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        inner = getattr(message, field.name)
        if rng.random() < 0.15:
            message.ClearField(field.name)
        else:
            inner.SetInParent()
            _tamper(inner, rng)
    else:
        setattr(message, field.name, _value(field, rng))


def _tamper_list(items: Any, field: FieldDescriptor, rng: random.Random) -> None:
    what = rng.randrange(4)
    if what == 0 and len(items):
        del items[rng.randrange(len(items))]
    elif field.type != FieldDescriptor.TYPE_MESSAGE:
        if what == 1 and len(items):
            items[rng.randrange(len(items))] = _value(field, rng)
        else:
            items.extend([_value(field, rng)] * rng.choice((1, 9, 400)))
    elif what == 1 and len(items):
        _tamper(items[rng.randrange(len(items))], rng)
    elif what == 2 and len(items):
        items.add().CopyFrom(rng.choice(items))
    else:
        for _ in range(rng.choice((1, 9, 400))):
            items.add()


def _value(field: FieldDescriptor, rng: random.Random) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return rng.choice(_TEXTS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return rng.choice((*_SELECTS, rng.randbytes(rng.choice((0, 1, 16, 32, 64, 2000)))))
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return rng.choice((0.0, -1.0, 0.5, 1e308, float("inf"), float("nan")))
    if field.type == FieldDescriptor.TYPE_BOOL:
        return rng.random() < 0.5
    if field.type in (FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64):
        return rng.choice(_NUMBERS)
    return rng.choice([number for number in _NUMBERS if number < 2**31])


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
