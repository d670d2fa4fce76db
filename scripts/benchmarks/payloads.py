"""What is moved: states of the shapes that people train, feature maps, and one big tensor. The same on every side."""

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

from benchmarks.names import FEATURES, SPARSE_100MB, STATE_100MB, STATE_300KB, TINY
from peerlearn.errors import ConfigError
from peerlearn.knowledge import Knowledge, Outputs, Params, Sparse

Shapes = dict[str, tuple[int, ...]]


def make(name: str) -> Knowledge:
    """By name: one of `names`, or `KIND-Nmb`, one tensor of N million bytes; KIND is floats, relu or zeros99.

    floats: as weights are, which no codec makes smaller. relu: half of them zero. zeros99: 99 of 100 are zero.
    """
    if name == STATE_100MB:
        return _params(_filled(_resnet50()))
    if name == SPARSE_100MB:
        return _params({key: _sparse(tensor) for key, tensor in _filled(_resnet50()).items()})
    if name == STATE_300KB:
        return _params(_filled(_resnet8()))
    if name == TINY:
        return _params(_filled({"0.weight": (32, 64), "0.bias": (32,), "2.weight": (10, 32), "2.bias": (10,)}))
    if name == FEATURES:
        maps = {"feature": _tensor((256, 16, 32, 32), seed=1).relu(), "logits": _tensor((256, 10), seed=2)}
        return Outputs(dataset="bench", fingerprint="bench", ids=torch.arange(256), tensors=maps, version=1)
    kind, _, size = name.partition("-")
    if kind not in ("floats", "relu", "zeros99") or not size.removesuffix("mb").isdecimal():
        raise ConfigError(f"there is no payload {name!r}")
    tensor = _tensor((int(size.removesuffix("mb")) * 250_000,), seed=3)
    if kind == "relu":
        tensor = tensor.relu_()
    elif kind == "zeros99":
        kept = torch.rand(len(tensor), generator=torch.Generator().manual_seed(4)) < 0.01
        tensor = tensor.masked_fill_(~kept, 0)  # not times 0: that leaves negative zeros, which are other bytes
    return _params({"w": tensor})


def live(knowledge: Knowledge) -> dict[str, Tensor]:
    """Tensors to copy the knowledge into, as a model has them: there already, touched."""
    return {name: torch.zeros(tuple(tensor.shape), dtype=_dtype(tensor)) for name, tensor in knowledge.tensors.items()}


def _dtype(tensor: Tensor | Sparse) -> torch.dtype:
    return (tensor.values if isinstance(tensor, Sparse) else tensor).dtype


def _params(tensors: dict[str, Tensor] | dict[str, Sparse]) -> Params:
    return Params(tensors=dict(tensors), architecture="bench", version=1)


def _filled(shapes: Shapes) -> dict[str, Tensor]:
    return {
        name: _tensor(shape, seed=number) if shape else torch.tensor(number)
        for number, (name, shape) in enumerate(shapes.items())
    }


def _tensor(shape: tuple[int, ...], *, seed: int) -> Tensor:
    """float32, normal. A large one repeats after 4 million values, further than any codec looks."""
    count = prod(shape)
    drawn = torch.randn(min(count, 1 << 22), generator=torch.Generator().manual_seed(seed)) * 0.05
    whole = drawn if count == len(drawn) else drawn.repeat(-(-count // len(drawn)))[:count].clone()
    return whole.reshape(shape)


def _sparse(tensor: Tensor) -> Sparse:
    """One value of a hundred, the first of each."""
    flat = tensor.reshape(-1)
    indices = torch.arange(0, len(flat), 100)
    return Sparse(tuple(tensor.shape), indices, flat[indices].clone())


# ---------------------------------------------------------------- names and shapes as torchvision has them


def _resnet50() -> Shapes:
    """320 tensors, 102.5 million bytes; batch counters are int64 scalars."""
    shapes: Shapes = dict(_convolution("conv1", "bn1", 64, 3, 7))
    width = 64
    for layer, (planes, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        for block in range(blocks):
            at = f"layer{layer}.{block}"
            shapes |= _convolution(f"{at}.conv1", f"{at}.bn1", planes, width, 1)
            shapes |= _convolution(f"{at}.conv2", f"{at}.bn2", planes, planes, 3)
            shapes |= _convolution(f"{at}.conv3", f"{at}.bn3", 4 * planes, planes, 1)
            if block == 0:
                shapes |= _convolution(f"{at}.downsample.0", f"{at}.downsample.1", 4 * planes, width, 1)
            width = 4 * planes
    return shapes | {"fc.weight": (1000, 2048), "fc.bias": (1000,)}


def _resnet8() -> Shapes:
    """A net for images of 32 x 32: about 313,000 bytes."""
    shapes: Shapes = dict(_convolution("conv1", "bn1", 16, 3, 3))
    width = 16
    for layer, planes in enumerate((16, 32, 64), start=1):
        shapes |= _convolution(f"layer{layer}.conv1", f"layer{layer}.bn1", planes, width, 3)
        shapes |= _convolution(f"layer{layer}.conv2", f"layer{layer}.bn2", planes, planes, 3)
        if planes != width:
            shapes |= _convolution(f"layer{layer}.downsample.0", f"layer{layer}.downsample.1", planes, width, 1)
        width = planes
    return shapes | {"fc.weight": (10, 64), "fc.bias": (10,)}


def _convolution(name: str, norm: str, out: int, into: int, size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (out, into, size, size)
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{norm}.{part}", (out,)
    yield f"{norm}.num_batches_tracked", ()
