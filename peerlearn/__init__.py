"""Peers on a LAN that find one another and learn from one another.

Names arrive when they are used (PEP 562): `import peerlearn` imports neither torch nor grpc. What programs need is
here. What a method, transport, discovery or sink of one's own needs is in `peerlearn.extending`, and what its tests
need in `peerlearn.testing`. Everything else is private and may move.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from peerlearn.version import __version__ as __version__

if TYPE_CHECKING:
    from peerlearn import strategies as strategies
    from peerlearn.arguments import Internals as Internals
    from peerlearn.arguments import Network as Network
    from peerlearn.arguments import Sharing as Sharing
    from peerlearn.blocking import BlockingPeer as BlockingPeer
    from peerlearn.config import Limits as Limits
    from peerlearn.config import Timing as Timing
    from peerlearn.data import datasets as datasets
    from peerlearn.data import partition as partition
    from peerlearn.errors import ConfigError as ConfigError
    from peerlearn.errors import ExtraMissing as ExtraMissing
    from peerlearn.errors import GroupError as GroupError
    from peerlearn.errors import IdentityError as IdentityError
    from peerlearn.errors import InvariantBroken as InvariantBroken
    from peerlearn.errors import KnowledgeError as KnowledgeError
    from peerlearn.errors import LearnerError as LearnerError
    from peerlearn.errors import NetworkError as NetworkError
    from peerlearn.errors import PeerlearnError as PeerlearnError
    from peerlearn.errors import PeerRefused as PeerRefused
    from peerlearn.errors import PeerStopped as PeerStopped
    from peerlearn.errors import PeerUnreachable as PeerUnreachable
    from peerlearn.errors import RefusalReason as RefusalReason
    from peerlearn.errors import StateError as StateError
    from peerlearn.errors import TransferError as TransferError
    from peerlearn.errors import WireError as WireError
    from peerlearn.events import JsonlSink as JsonlSink
    from peerlearn.events import MemorySink as MemorySink
    from peerlearn.learning import evaluate as evaluate
    from peerlearn.learning import models as models
    from peerlearn.learning import stream as stream
    from peerlearn.learning.dataset import Dataset as Dataset
    from peerlearn.learning.dataset import Unlabelled as Unlabelled
    from peerlearn.learning.learner import Learner as Learner
    from peerlearn.learning.report import Report as Report
    from peerlearn.orchestrator.pace import Pace as Pace
    from peerlearn.orchestrator.training.gate import Gate as Gate
    from peerlearn.peer import Peer as Peer
    from peerlearn.schedule import Exchange as Exchange
    from peerlearn.schedule import Local as Local
    from peerlearn.schedule import Publish as Publish
    from peerlearn.schedule import Schedule as Schedule
    from peerlearn.schedule import Transfer as Transfer
    from peerlearn.security.group import Group as Group
    from peerlearn.status import Status as Status
    from peerlearn.strategies.admm.strategy import AdmmGossip as AdmmGossip
    from peerlearn.strategies.auto.strategy import Auto as Auto
    from peerlearn.strategies.cloned.strategy import Cloned as Cloned
    from peerlearn.strategies.clue.strategy import Clue as Clue
    from peerlearn.strategies.distillation import Distillation as Distillation
    from peerlearn.strategies.fedavg import FedAvg as FedAvg
    from peerlearn.strategies.fedavg import FedAvgShared as FedAvgShared
    from peerlearn.strategies.fedgkt.strategy import FedGKT as FedGKT
    from peerlearn.strategies.gossip import Gossip as Gossip
    from peerlearn.strategies.isolated import Isolated as Isolated
    from peerlearn.strategies.isolated import IsolatedBalanced as IsolatedBalanced
    from peerlearn.strategies.mhd.strategy import MHD as MHD
    from peerlearn.strategies.pairwise.strategy import Pairwise as Pairwise
    from peerlearn.tuning.gc import tune_collector as tune_collector
    from peerlearn.tuning.malloc import tune_allocator as tune_allocator
    from peerlearn.types import Address as Address
    from peerlearn.types import Exposure as Exposure
    from peerlearn.types import Span as Span
    from peerlearn.types import epochs as epochs
    from peerlearn.types import steps as steps

_HOMES = {
    "Address": "types",
    "AdmmGossip": "strategies.admm.strategy",
    "Auto": "strategies.auto.strategy",
    "BlockingPeer": "blocking",
    "Cloned": "strategies.cloned.strategy",
    "Clue": "strategies.clue.strategy",
    "ConfigError": "errors",
    "Dataset": "learning.dataset",
    "Distillation": "strategies.distillation",
    "Exchange": "schedule",
    "Exposure": "types",
    "ExtraMissing": "errors",
    "FedAvg": "strategies.fedavg",
    "FedAvgShared": "strategies.fedavg",
    "FedGKT": "strategies.fedgkt.strategy",
    "Gate": "orchestrator.training.gate",
    "Gossip": "strategies.gossip",
    "Group": "security.group",
    "GroupError": "errors",
    "IdentityError": "errors",
    "Internals": "arguments",
    "InvariantBroken": "errors",
    "Isolated": "strategies.isolated",
    "IsolatedBalanced": "strategies.isolated",
    "JsonlSink": "events",
    "KnowledgeError": "errors",
    "Learner": "learning.learner",
    "LearnerError": "errors",
    "Limits": "config",
    "Local": "schedule",
    "MHD": "strategies.mhd.strategy",
    "MemorySink": "events",
    "Network": "arguments",
    "NetworkError": "errors",
    "Pace": "orchestrator.pace",
    "Pairwise": "strategies.pairwise.strategy",
    "Peer": "peer",
    "PeerRefused": "errors",
    "PeerStopped": "errors",
    "PeerUnreachable": "errors",
    "PeerlearnError": "errors",
    "Publish": "schedule",
    "RefusalReason": "errors",
    "Report": "learning.report",
    "Schedule": "schedule",
    "Sharing": "arguments",
    "Span": "types",
    "StateError": "errors",
    "Status": "status",
    "Timing": "config",
    "Transfer": "schedule",
    "TransferError": "errors",
    "Unlabelled": "learning.dataset",
    "WireError": "errors",
    "epochs": "types",
    "steps": "types",
    "tune_allocator": "tuning.malloc",
    "tune_collector": "tuning.gc",
}
_ROOMS = {
    "datasets": "data.datasets",
    "evaluate": "learning.evaluate",
    "models": "learning.models",
    "partition": "data.partition",
    "strategies": "strategies",
    "stream": "learning.stream",
}

__all__ = [
    "MHD",
    "Address",
    "AdmmGossip",
    "Auto",
    "BlockingPeer",
    "Cloned",
    "Clue",
    "ConfigError",
    "Dataset",
    "Distillation",
    "Exchange",
    "Exposure",
    "ExtraMissing",
    "FedAvg",
    "FedAvgShared",
    "FedGKT",
    "Gate",
    "Gossip",
    "Group",
    "GroupError",
    "IdentityError",
    "Internals",
    "InvariantBroken",
    "Isolated",
    "IsolatedBalanced",
    "JsonlSink",
    "KnowledgeError",
    "Learner",
    "LearnerError",
    "Limits",
    "Local",
    "MemorySink",
    "Network",
    "NetworkError",
    "Pace",
    "Pairwise",
    "Peer",
    "PeerRefused",
    "PeerStopped",
    "PeerUnreachable",
    "PeerlearnError",
    "Publish",
    "RefusalReason",
    "Report",
    "Schedule",
    "Sharing",
    "Span",
    "StateError",
    "Status",
    "Timing",
    "Transfer",
    "TransferError",
    "Unlabelled",
    "WireError",
    "datasets",
    "epochs",
    "evaluate",
    "models",
    "partition",
    "steps",
    "strategies",
    "stream",
    "tune_allocator",
    "tune_collector",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"peerlearn.{_ROOMS[name]}")
    if name not in _HOMES:
        raise AttributeError(f"module 'peerlearn' has no attribute {name!r}")
    return getattr(import_module(f"peerlearn.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
