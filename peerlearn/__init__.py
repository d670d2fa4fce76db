"""Peers on a LAN that find one another and learn from one another.

Names arrive when they are used (PEP 562): `import peerlearn` imports neither torch nor grpc.
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
    from peerlearn.errors import PeerlearnError as PeerlearnError
    from peerlearn.events import JsonlSink as JsonlSink
    from peerlearn.events import MemorySink as MemorySink
    from peerlearn.learning import evaluate as evaluate
    from peerlearn.learning import models as models
    from peerlearn.learning.learner import Learner as Learner
    from peerlearn.learning.report import Report as Report
    from peerlearn.orchestrator.training.gate import Gate as Gate
    from peerlearn.peer import Peer as Peer
    from peerlearn.schedule import Exchange as Exchange
    from peerlearn.schedule import Local as Local
    from peerlearn.schedule import Publish as Publish
    from peerlearn.schedule import Schedule as Schedule
    from peerlearn.schedule import Transfer as Transfer
    from peerlearn.security.group import Group as Group
    from peerlearn.status import Status as Status
    from peerlearn.strategies.distillation import Distillation as Distillation
    from peerlearn.strategies.isolated import Isolated as Isolated
    from peerlearn.strategies.pairwise.strategy import Pairwise as Pairwise
    from peerlearn.tuning.gc import tune_collector as tune_collector
    from peerlearn.tuning.malloc import tune_allocator as tune_allocator
    from peerlearn.types import Exposure as Exposure
    from peerlearn.types import Span as Span
    from peerlearn.types import epochs as epochs
    from peerlearn.types import steps as steps

_HOMES = {
    "Sharing": "arguments",
    "Network": "arguments",
    "Internals": "arguments",
    "BlockingPeer": "blocking",
    "Distillation": "strategies.distillation",
    "Exchange": "schedule",
    "Exposure": "types",
    "Gate": "orchestrator.training.gate",
    "Group": "security.group",
    "Isolated": "strategies.isolated",
    "JsonlSink": "events",
    "Learner": "learning.learner",
    "Limits": "config",
    "Local": "schedule",
    "MemorySink": "events",
    "Pairwise": "strategies.pairwise.strategy",
    "Peer": "peer",
    "PeerlearnError": "errors",
    "Publish": "schedule",
    "Report": "learning.report",
    "Schedule": "schedule",
    "Span": "types",
    "Status": "status",
    "Timing": "config",
    "Transfer": "schedule",
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
}

__all__ = [
    "BlockingPeer",
    "Distillation",
    "Exchange",
    "Exposure",
    "Gate",
    "Group",
    "Internals",
    "Isolated",
    "JsonlSink",
    "Learner",
    "Limits",
    "Local",
    "MemorySink",
    "Network",
    "Pairwise",
    "Peer",
    "PeerlearnError",
    "Publish",
    "Report",
    "Schedule",
    "Sharing",
    "Span",
    "Status",
    "Timing",
    "Transfer",
    "datasets",
    "epochs",
    "evaluate",
    "models",
    "partition",
    "steps",
    "strategies",
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
