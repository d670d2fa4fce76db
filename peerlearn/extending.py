"""What a strategy, a transport, a discovery or a sink of one's own is made from.

The names listed here, in `peerlearn` and in `peerlearn.testing` are stable: within a major version none of them goes,
and none changes what it means; a minor version may add names, and methods with a default. What is in none of these
three is private and may move in any release. Until version 1.0 a minor version may change them; CHANGELOG.md says so.

docs/extending.md shows how each kind of extension is written, and the conformance suite that it must pass.

Names are imported when they are used (PEP 562): `import peerlearn.extending` imports neither torch nor grpc.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peerlearn.clock import now as now
    from peerlearn.discovery.base import Announcement as Announcement
    from peerlearn.discovery.base import Discovery as Discovery
    from peerlearn.discovery.base import Hint as Hint
    from peerlearn.discovery.base import Listener as Listener
    from peerlearn.discovery.lobby import Lobby as Lobby
    from peerlearn.discovery.mdns import Mdns as Mdns
    from peerlearn.discovery.static import Static as Static
    from peerlearn.errors import Corrupt as Corrupt
    from peerlearn.errors import ForeignProtocol as ForeignProtocol
    from peerlearn.errors import Oversized as Oversized
    from peerlearn.errors import Truncated as Truncated
    from peerlearn.events import Answered as Answered
    from peerlearn.events import Complaint as Complaint
    from peerlearn.events import Decided as Decided
    from peerlearn.events import Evaluated as Evaluated
    from peerlearn.events import Event as Event
    from peerlearn.events import Fetched as Fetched
    from peerlearn.events import FetchFailed as FetchFailed
    from peerlearn.events import Gated as Gated
    from peerlearn.events import Opening as Opening
    from peerlearn.events import PeerChanged as PeerChanged
    from peerlearn.events import PhaseStarted as PhaseStarted
    from peerlearn.events import Published as Published
    from peerlearn.events import Quarantined as Quarantined
    from peerlearn.events import Record as Record
    from peerlearn.events import Recorded as Recorded
    from peerlearn.events import Refused as Refused
    from peerlearn.events import Resumed as Resumed
    from peerlearn.events import Saved as Saved
    from peerlearn.events import SaveFailed as SaveFailed
    from peerlearn.events import Sink as Sink
    from peerlearn.events import Started as Started
    from peerlearn.events import Stopped as Stopped
    from peerlearn.events import Tee as Tee
    from peerlearn.events import Trained as Trained
    from peerlearn.events import Unfit as Unfit
    from peerlearn.events import Unknown as Unknown
    from peerlearn.events import as_json as as_json
    from peerlearn.events import discard as discard
    from peerlearn.events import from_json as from_json
    from peerlearn.events import read_events as read_events
    from peerlearn.knowledge import Answer as Answer
    from peerlearn.knowledge import Json as Json
    from peerlearn.knowledge import Knowledge as Knowledge
    from peerlearn.knowledge import NotModified as NotModified
    from peerlearn.knowledge import Outputs as Outputs
    from peerlearn.knowledge import Params as Params
    from peerlearn.knowledge import Query as Query
    from peerlearn.knowledge import Question as Question
    from peerlearn.knowledge import Received as Received
    from peerlearn.knowledge import Refusal as Refusal
    from peerlearn.knowledge import Sparse as Sparse
    from peerlearn.learning.interruption import Diverged as Diverged
    from peerlearn.learning.interruption import Interrupted as Interrupted
    from peerlearn.learning.learner import Batch as Batch
    from peerlearn.learning.learner import Facts as Facts
    from peerlearn.learning.learner import Loss as Loss
    from peerlearn.learning.learner import Objective as Objective
    from peerlearn.learning.losses import distill_kl as distill_kl
    from peerlearn.learning.losses import kl as kl
    from peerlearn.learning.losses import logit_mse as logit_mse
    from peerlearn.learning.rollback import RollbackPoint as RollbackPoint
    from peerlearn.learning.snapshot import Snapshot as Snapshot
    from peerlearn.orchestrator.training.trainer import Measure as Measure
    from peerlearn.schedule import Phase as Phase
    from peerlearn.strategies.base import Asked as Asked
    from peerlearn.strategies.base import Base as Base
    from peerlearn.strategies.base import Separable as Separable
    from peerlearn.strategies.base import Strategy as Strategy
    from peerlearn.strategies.shared.answers import not_mine as not_mine
    from peerlearn.strategies.shared.answers import public_logits as public_logits
    from peerlearn.strategies.shared.answers import some_layers as some_layers
    from peerlearn.strategies.shared.answers import whole_model as whole_model
    from peerlearn.strategies.shared.teacher_checks import check_layers as check_layers
    from peerlearn.strategies.shared.teacher_checks import check_teacher as check_teacher
    from peerlearn.strategies.shared.teacher_checks import dense as dense
    from peerlearn.strategies.shared.teacher_memory import RememberedKnowledge as RememberedKnowledge
    from peerlearn.strategies.shared.teacher_memory import TeacherMemory as TeacherMemory
    from peerlearn.strategies.shared.teacher_memory import conditional as conditional
    from peerlearn.transport.base import Caller as Caller
    from peerlearn.transport.base import Credentials as Credentials
    from peerlearn.transport.base import Guard as Guard
    from peerlearn.transport.base import Service as Service
    from peerlearn.transport.base import Traffic as Traffic
    from peerlearn.transport.base import Transport as Transport
    from peerlearn.transport.exchange.deadline import Deadline as Deadline
    from peerlearn.transport.exchange.dispatcher import Dispatcher as Dispatcher
    from peerlearn.transport.exchange.dispatcher import LinkEstimates as LinkEstimates
    from peerlearn.transport.exchange.dispatcher import read_introduction as read_introduction
    from peerlearn.transport.exchange.dispatcher import read_notice as read_notice
    from peerlearn.transport.exchange.protocol import Pipe as Pipe
    from peerlearn.transport.exchange.protocol import ask as ask
    from peerlearn.transport.grpc.transport import GrpcTransport as GrpcTransport
    from peerlearn.transport.memory.transport import MemoryNetwork as MemoryNetwork
    from peerlearn.types import Card as Card
    from peerlearn.types import Layer as Layer
    from peerlearn.types import PeerId as PeerId
    from peerlearn.types import PublicSet as PublicSet
    from peerlearn.wire.frames import Message as Message
    from peerlearn.wire.partial_message import PartialMessage as PartialMessage
    from peerlearn.wire.seal import sealed as sealed
    from peerlearn.wire.v1 import fabric_pb2 as fabric_pb2

_HOMES = {
    "Announcement": "discovery.base",
    "Answer": "knowledge",
    "Answered": "events",
    "Asked": "strategies.base",
    "Base": "strategies.base",
    "Batch": "learning.learner",
    "Caller": "transport.base",
    "Card": "types",
    "Complaint": "events",
    "Corrupt": "errors",
    "Credentials": "transport.base",
    "Deadline": "transport.exchange.deadline",
    "Decided": "events",
    "Discovery": "discovery.base",
    "Dispatcher": "transport.exchange.dispatcher",
    "Diverged": "learning.interruption",
    "Evaluated": "events",
    "Event": "events",
    "Facts": "learning.learner",
    "FetchFailed": "events",
    "Fetched": "events",
    "ForeignProtocol": "errors",
    "Gated": "events",
    "GrpcTransport": "transport.grpc.transport",
    "Guard": "transport.base",
    "Hint": "discovery.base",
    "Interrupted": "learning.interruption",
    "Json": "knowledge",
    "Knowledge": "knowledge",
    "Layer": "types",
    "LinkEstimates": "transport.exchange.dispatcher",
    "Listener": "discovery.base",
    "Lobby": "discovery.lobby",
    "Loss": "learning.learner",
    "Mdns": "discovery.mdns",
    "Measure": "orchestrator.training.trainer",
    "MemoryNetwork": "transport.memory.transport",
    "Message": "wire.frames",
    "NotModified": "knowledge",
    "Objective": "learning.learner",
    "Opening": "events",
    "Outputs": "knowledge",
    "Oversized": "errors",
    "Params": "knowledge",
    "PartialMessage": "wire.partial_message",
    "PeerChanged": "events",
    "PeerId": "types",
    "Phase": "schedule",
    "PhaseStarted": "events",
    "Pipe": "transport.exchange.protocol",
    "PublicSet": "types",
    "Published": "events",
    "Quarantined": "events",
    "Query": "knowledge",
    "Question": "knowledge",
    "Received": "knowledge",
    "Record": "events",
    "Recorded": "events",
    "Refusal": "knowledge",
    "Refused": "events",
    "RememberedKnowledge": "strategies.shared.teacher_memory",
    "Resumed": "events",
    "RollbackPoint": "learning.rollback",
    "SaveFailed": "events",
    "Saved": "events",
    "Separable": "strategies.base",
    "Service": "transport.base",
    "Sink": "events",
    "Snapshot": "learning.snapshot",
    "Sparse": "knowledge",
    "Started": "events",
    "Static": "discovery.static",
    "Stopped": "events",
    "Strategy": "strategies.base",
    "TeacherMemory": "strategies.shared.teacher_memory",
    "Tee": "events",
    "Traffic": "transport.base",
    "Trained": "events",
    "Transport": "transport.base",
    "Truncated": "errors",
    "Unfit": "events",
    "Unknown": "events",
    "as_json": "events",
    "ask": "transport.exchange.protocol",
    "check_layers": "strategies.shared.teacher_checks",
    "check_teacher": "strategies.shared.teacher_checks",
    "conditional": "strategies.shared.teacher_memory",
    "dense": "strategies.shared.teacher_checks",
    "discard": "events",
    "distill_kl": "learning.losses",
    "from_json": "events",
    "kl": "learning.losses",
    "logit_mse": "learning.losses",
    "not_mine": "strategies.shared.answers",
    "now": "clock",
    "public_logits": "strategies.shared.answers",
    "read_events": "events",
    "read_introduction": "transport.exchange.dispatcher",
    "read_notice": "transport.exchange.dispatcher",
    "sealed": "wire.seal",
    "some_layers": "strategies.shared.answers",
    "whole_model": "strategies.shared.answers",
}
_ROOMS = {
    "fabric_pb2": "wire.v1.fabric_pb2",
}

__all__ = [
    "Announcement",
    "Answer",
    "Answered",
    "Asked",
    "Base",
    "Batch",
    "Caller",
    "Card",
    "Complaint",
    "Corrupt",
    "Credentials",
    "Deadline",
    "Decided",
    "Discovery",
    "Dispatcher",
    "Diverged",
    "Evaluated",
    "Event",
    "Facts",
    "FetchFailed",
    "Fetched",
    "ForeignProtocol",
    "Gated",
    "GrpcTransport",
    "Guard",
    "Hint",
    "Interrupted",
    "Json",
    "Knowledge",
    "Layer",
    "LinkEstimates",
    "Listener",
    "Lobby",
    "Loss",
    "Mdns",
    "Measure",
    "MemoryNetwork",
    "Message",
    "NotModified",
    "Objective",
    "Opening",
    "Outputs",
    "Oversized",
    "Params",
    "PartialMessage",
    "PeerChanged",
    "PeerId",
    "Phase",
    "PhaseStarted",
    "Pipe",
    "PublicSet",
    "Published",
    "Quarantined",
    "Query",
    "Question",
    "Received",
    "Record",
    "Recorded",
    "Refusal",
    "Refused",
    "RememberedKnowledge",
    "Resumed",
    "RollbackPoint",
    "SaveFailed",
    "Saved",
    "Separable",
    "Service",
    "Sink",
    "Snapshot",
    "Sparse",
    "Started",
    "Static",
    "Stopped",
    "Strategy",
    "TeacherMemory",
    "Tee",
    "Traffic",
    "Trained",
    "Transport",
    "Truncated",
    "Unfit",
    "Unknown",
    "as_json",
    "ask",
    "check_layers",
    "check_teacher",
    "conditional",
    "dense",
    "discard",
    "distill_kl",
    "fabric_pb2",
    "from_json",
    "kl",
    "logit_mse",
    "not_mine",
    "now",
    "public_logits",
    "read_events",
    "read_introduction",
    "read_notice",
    "sealed",
    "some_layers",
    "whole_model",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"peerlearn.{_ROOMS[name]}")
    if name not in _HOMES:
        raise AttributeError(f"module 'peerlearn.extending' has no attribute {name!r}")
    return getattr(import_module(f"peerlearn.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
