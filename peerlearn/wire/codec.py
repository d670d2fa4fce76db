"""Questions and answers as messages and back: knowledge on one side, a header and a body on the other."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import get_args

import torch
from torch import Tensor

from peerlearn.casts import DTYPE_CASTS, top_share
from peerlearn.config import Limits
from peerlearn.errors import Corrupt, KnowledgeError, RefusalReason
from peerlearn.knowledge import Answer, Knowledge, NotModified, Outputs, Params, Query, Question, Refusal, Sparse
from peerlearn.types import PeerId
from peerlearn.wire.frames import Message, check_header
from peerlearn.wire.protocol import our_protocol
from peerlearn.wire.reuse.negotiation import Held, Line, take_all
from peerlearn.wire.select import dump_select, load_select
from peerlearn.wire.tensors import Body, all_to_wire
from peerlearn.wire.v1 import fabric_pb2 as pb

IDS = "ids"
"""The tensor of an Outputs body that holds its sample ids, int64 (N,)."""

DETAIL_CHARS = 500
"""Of a refusal's sentence that are believed."""

_WANTS = frozenset(get_args(Query.__annotations__["want"]))
_LIMITS = Limits()
ToWire = Callable[[Mapping[str, Tensor | Sparse], str], Iterable[Line]]
"""From tensors by name and the cast to a line of the manifest and the bytes of each."""


def encode_question(
    question: Question,
    *,
    sender: PeerId,
    session: str,
    strategy: str,
    limits: Limits | None = None,
    held: Collection[bytes] | None = None,
) -> Message:
    """Tensors that the question brings are not copied: they must not change until the message was sent.

    `held`: digests of tensors that need not come again; also when there are none, the answer's tensors are asked to
    have names; None: they are not. Raises KnowledgeError for what cannot be sent.
    """
    header = _header(sender, session, strategy)
    query = question.query
    header.query.want = query.want
    header.query.select = dump_select(query.select, limits or _LIMITS)
    header.query.have_session = query.have_session
    if share := top_share(query.cast):
        header.query.top = share
    else:
        header.query.cast = query.cast
    if held is not None:
        header.query.held = b"".join(held)
    if query.have is not None:
        header.query.have = query.have
    if query.at is not None:
        header.query.at = query.at
    body = _add_knowledge(header, question.brings, "", all_to_wire) if question.brings is not None else ()
    return Message(header, body)


def decode_question(message: Message, *, limits: Limits | None = None) -> Question:
    """Raises Corrupt or Oversized. Tensors are views of the message's memory and keep it alive."""
    limits = limits or _LIMITS
    header = message.header
    _check(message, limits)
    if not header.HasField("query") or header.HasField("not_modified") or header.HasField("refusal"):
        raise Corrupt("the message is not a question")
    query = header.query
    if query.want not in _WANTS:
        raise Corrupt(f"the question wants {query.want[:40]!r}, which this peer does not know")
    if query.cast and query.cast not in DTYPE_CASTS:
        raise Corrupt(f"the question asks for a cast to {query.cast[:40]!r}, which this peer does not know")
    return Question(
        Query(
            want=query.want,  # type: ignore[arg-type]  # one of _WANTS
            select=load_select(query.select, limits),
            have=query.have if query.HasField("have") else None,
            have_session=query.have_session,
            at=query.at if query.HasField("at") else None,
            cast=query.cast or (f"topk:{query.top!r}" if query.top else ""),
        ),
        _knowledge(message, {}) if header.HasField("knowledge") else None,
    )


def encode_answer(
    answer: Answer, *, sender: PeerId, session: str, strategy: str, cast: str = "", lines: ToWire = all_to_wire
) -> Message:
    """`cast` is the query's: wider floating tensors travel as this dtype and are given back in their own. `lines` may
    leave out what the consumer holds (`reuse.Reuse`); without it, a top-k cast is answered in full.

    Tensors are not copied: they must not change until the message was sent. Raises KnowledgeError for what cannot be
    sent, and for values that the cast cannot hold.
    """
    header = _header(sender, session, strategy)
    if isinstance(answer, NotModified):
        header.not_modified.version = answer.version
        return Message(header)
    if isinstance(answer, Refusal):
        header.refusal.reason = answer.reason
        header.refusal.detail = answer.detail[:DETAIL_CHARS]
        return Message(header)
    return Message(header, _add_knowledge(header, answer, cast, lines))


def decode_answer(message: Message, *, limits: Limits | None = None, held: Held | None = None) -> Answer:
    """Raises Corrupt or Oversized; and Changed when what is `held` (as the question said) is not what it should be.
    Tensors are views of the message's memory and keep it alive; those held are given back as they are."""
    header = message.header
    _check(message, limits or _LIMITS)
    kinds = [kind for kind in ("not_modified", "refusal", "knowledge") if header.HasField(kind)]
    if len(kinds) != 1 or header.HasField("query"):
        raise Corrupt(f"the message is not an answer: it is {' and '.join(kinds) or 'empty'}")
    if kinds == ["not_modified"]:
        return NotModified(header.not_modified.version)
    if kinds == ["refusal"]:
        known = header.refusal.reason in frozenset(RefusalReason)
        reason = RefusalReason(header.refusal.reason) if known else RefusalReason.OTHER
        return Refusal(reason, header.refusal.detail[:DETAIL_CHARS])
    return _knowledge(message, held or {})


def _check(message: Message, limits: Limits) -> None:
    if message.checked is not limits and message.checked != limits:  # else it was when it came
        check_header(message.header, limits)


def _header(sender: PeerId, session: str, strategy: str) -> pb.Header:
    return pb.Header(protocol=our_protocol(), sender=sender, session=session, strategy=strategy)


def _add_knowledge(header: pb.Header, knowledge: Knowledge, cast: str, lines: ToWire) -> tuple[memoryview, ...]:
    if cast and cast not in DTYPE_CASTS and not top_share(cast):
        raise KnowledgeError(f"there is no cast to {cast!r}; use one of {', '.join(sorted(DTYPE_CASTS))}")
    header.knowledge.version = knowledge.version
    if isinstance(knowledge, Outputs):
        _check_outputs(knowledge.ids, knowledge.tensors, KnowledgeError)
        header.knowledge.outputs.dataset = knowledge.dataset
        header.knowledge.outputs.fingerprint = knowledge.fingerprint
        named: Mapping[str, Tensor | Sparse] = {IDS: knowledge.ids, **knowledge.tensors}
    else:
        header.knowledge.params.architecture = knowledge.architecture
        header.knowledge.params.member = knowledge.member
        named = knowledge.tensors
    body: list[memoryview] = []
    for line, parts in lines(named, cast if cast in DTYPE_CASTS else ""):
        header.tensors.append(line)
        body.extend(parts)
    header.body_bytes = sum(map(len, body))
    return tuple(body)


def _knowledge(message: Message, held: Held) -> Knowledge:
    header, body = message.header, Body(message.body)
    tensors = take_all(header.tensors, body, held)
    kind = header.knowledge.WhichOneof("kind")
    if kind == "params":
        params = header.knowledge.params
        return Params(
            tensors=tensors, architecture=params.architecture, version=header.knowledge.version, member=params.member
        )
    if kind != "outputs":
        raise Corrupt("the message brings knowledge of a kind that this peer does not know")
    dense = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
    if len(dense) < len(tensors) or IDS not in dense:
        raise Corrupt("outputs must be dense tensors, with their sample ids as the tensor 'ids'")
    ids = dense.pop(IDS)
    _check_outputs(ids, dense, Corrupt)
    outputs = header.knowledge.outputs
    return Outputs(
        dataset=outputs.dataset,
        fingerprint=outputs.fingerprint,
        ids=ids,
        tensors=dense,
        version=header.knowledge.version,
    )


def _check_outputs(ids: Tensor, tensors: Mapping[str, Tensor], error: type[KnowledgeError] | type[Corrupt]) -> None:
    if ids.dtype != torch.int64 or ids.dim() != 1:
        raise error(f"sample ids must be int64 (N,), not {ids.dtype} {tuple(ids.shape)}")
    if not bool((ids[1:] > ids[:-1]).all()) and len(ids.unique()) < len(ids):
        raise error("sample ids must be unique: one of them stands twice")
    if IDS in tensors:
        raise error(f"an output cannot be named {IDS!r}: that is the sample ids' own name")
    for name, tensor in tensors.items():
        if tensor.dim() == 0 or len(tensor) != len(ids):
            raise error(f"output {name!r} has shape {tuple(tensor.shape)} for {len(ids)} sample ids")
