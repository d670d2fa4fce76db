"""Headers of messages that carry floats."""

from peerlearn.wire.v1 import fabric_pb2 as pb


def header(*tensors: pb.TensorHeader, body_bytes: int | None = None) -> pb.Header:
    made = pb.Header(protocol=pb.Protocol(major=1), sender="ada", tensors=tensors)
    made.body_bytes = sum(t.stored * 4 for t in tensors) if body_bytes is None else body_bytes
    if tensors:
        made.knowledge.params.architecture = "a"
    return made


def floats(name: str, count: int) -> pb.TensorHeader:
    return pb.TensorHeader(name=name, dtype="float32", shape=[count], stored=count)
