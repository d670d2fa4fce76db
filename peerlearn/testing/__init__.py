"""What tests of an extension need: tiny learners, whole peers in one process, and the conformance suite.

No test framework is imported. A strategy of one's own is tested in three lines of pytest:

    from peerlearn.testing import conformance

    @pytest.mark.parametrize("check", conformance.strategy(Mutual), ids=str)
    def test_mutual_keeps_to_the_contract(check):
        check()

Names are imported when they are used (PEP 562): `import peerlearn.testing` imports neither torch nor grpc.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peerlearn.testing import conformance as conformance
    from peerlearn.testing.digests import bits as bits
    from peerlearn.testing.digests import everything as everything
    from peerlearn.testing.digests import same as same
    from peerlearn.testing.digests import weights as weights
    from peerlearn.testing.direct import DirectRounds as DirectRounds
    from peerlearn.testing.exchange import Member as Member
    from peerlearn.testing.exchange import give as give
    from peerlearn.testing.exchange import received as received
    from peerlearn.testing.exchange import snapshot as snapshot
    from peerlearn.testing.exchange import tensors_of as tensors_of
    from peerlearn.testing.exchange import tiny_card as tiny_card
    from peerlearn.testing.exchange import tiny_id as tiny_id
    from peerlearn.testing.leaks import Held as Held
    from peerlearn.testing.leaks import nothing_left as nothing_left
    from peerlearn.testing.learners import CLASSES as CLASSES
    from peerlearn.testing.learners import DIMS as DIMS
    from peerlearn.testing.learners import Normed as Normed
    from peerlearn.testing.learners import blob_learner as blob_learner
    from peerlearn.testing.learners import blob_model as blob_model
    from peerlearn.testing.learners import blobs as blobs
    from peerlearn.testing.learners import tiny_data as tiny_data
    from peerlearn.testing.learners import tiny_learner as tiny_learner
    from peerlearn.testing.learners import tiny_model as tiny_model
    from peerlearn.testing.network import PeerNetwork as PeerNetwork
    from peerlearn.testing.network import gathered as gathered
    from peerlearn.testing.network import patient as patient
    from peerlearn.testing.waiting import SOON as SOON
    from peerlearn.testing.waiting import Stopwatch as Stopwatch
    from peerlearn.testing.waiting import timed as timed
    from peerlearn.testing.waiting import until as until

_HOMES = {
    "CLASSES": "learners",
    "DIMS": "learners",
    "DirectRounds": "direct",
    "Held": "leaks",
    "Member": "exchange",
    "Normed": "learners",
    "PeerNetwork": "network",
    "SOON": "waiting",
    "Stopwatch": "waiting",
    "bits": "digests",
    "blob_learner": "learners",
    "blob_model": "learners",
    "blobs": "learners",
    "everything": "digests",
    "gathered": "network",
    "give": "exchange",
    "nothing_left": "leaks",
    "patient": "network",
    "received": "exchange",
    "same": "digests",
    "snapshot": "exchange",
    "tensors_of": "exchange",
    "timed": "waiting",
    "tiny_card": "exchange",
    "tiny_data": "learners",
    "tiny_id": "exchange",
    "tiny_learner": "learners",
    "tiny_model": "learners",
    "until": "waiting",
    "weights": "digests",
}

__all__ = [
    "CLASSES",
    "DIMS",
    "SOON",
    "DirectRounds",
    "Held",
    "Member",
    "Normed",
    "PeerNetwork",
    "Stopwatch",
    "bits",
    "blob_learner",
    "blob_model",
    "blobs",
    "conformance",
    "everything",
    "gathered",
    "give",
    "nothing_left",
    "patient",
    "received",
    "same",
    "snapshot",
    "tensors_of",
    "timed",
    "tiny_card",
    "tiny_data",
    "tiny_id",
    "tiny_learner",
    "tiny_model",
    "until",
    "weights",
]


def __getattr__(name: str) -> Any:
    if name == "conformance":
        return import_module("peerlearn.testing.conformance")
    if name not in _HOMES:
        raise AttributeError(f"module 'peerlearn.testing' has no attribute {name!r}")
    return getattr(import_module(f"peerlearn.testing.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
