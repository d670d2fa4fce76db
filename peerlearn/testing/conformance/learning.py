"""Laws about what a strategy takes in and learns: absorbing, transfers, prediction, state."""

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from peerlearn.errors import KnowledgeError
from peerlearn.knowledge import Knowledge, Outputs, Params, Received, Sparse
from peerlearn.learning import checkpoint, state
from peerlearn.learning.interruption import Interrupted
from peerlearn.learning.report import Report
from peerlearn.strategies.base import Separable
from peerlearn.testing.conformance.check import raises, require
from peerlearn.testing.conformance.world import World, state_of
from peerlearn.testing.digests import weights
from peerlearn.testing.direct import DirectPeer, DirectRounds
from peerlearn.testing.exchange import Member
from peerlearn.types import Span, epochs, steps


def absorbing_twice_is_absorbing_once(world: World) -> None:
    """`absorb` is idempotent: the same knowledge a second time changes nothing."""

    class Twice(DirectRounds):
        def absorb(self, peer: DirectPeer, received: Received) -> None:
            super().absorb(peer, received)
            once = state_of(peer)
            super().absorb(peer, received)
            require(state_of(peer) == once, "absorbing the same knowledge twice is not absorbing it once")

    world.run(Twice)


def foreign_knowledge_is_refused(world: World) -> None:
    """`absorb` raises KnowledgeError, before anything is changed, for knowledge that does not fit: values that are not
    finite, another dtype or shape, tensors too many or missing, another architecture or data set, the other kind."""

    spoilt_of: set[tuple[str, str]] = set()

    class Spoilt(DirectRounds):
        def absorb(self, peer: DirectPeer, received: Received) -> None:
            before, about = state_of(peer), (peer.name, str(received.asked and received.asked.select))
            for what, knowledge in _spoilt(received.knowledge) if about not in spoilt_of else ():
                spoilt_of.add(about)
                with raises(KnowledgeError, f"{what} was absorbed instead of being refused"):
                    super().absorb(peer, replace(received, knowledge=knowledge))
                require(state_of(peer) == before, f"{what} was refused, but has changed something")
            super().absorb(peer, received)

    world.run(Spoilt)


def a_forgotten_provider_teaches_no_more(world: World) -> None:
    """After `forget` a transfer names the provider no more."""

    class Forgetful(DirectRounds):
        def transfer(self, peer: DirectPeer, span: Span) -> Report:
            gone = max(peer.taught_by, default=None)
            if gone is not None:
                peer.strategy.forget(gone)
            report = super().transfer(peer, span)
            require(gone not in report.providers, "a transfer used knowledge of a provider that was to be forgotten")
            return report

    world.run(Forgetful)


def without_providers_nothing_changes(world: World) -> None:
    """With nothing absorbed a transfer is a report of no steps, and nothing has changed."""
    for peer in DirectRounds(world.peers()).peers:
        before = state_of(peer)
        report = peer.strategy.transfer(peer.learner, epochs(1))
        require((report.steps, report.providers) == (0, ()), "a transfer made steps though nothing was absorbed")
        require(state_of(peer) == before, "a transfer changed something though nothing was absorbed")


def the_same_seeds_give_the_same_bits(world: World) -> None:
    """A run can be repeated, and the answers of one exchange can be absorbed in one call, in any order."""

    class Reversed(DirectRounds):
        def absorb_all(self, peer: DirectPeer, received: Sequence[Received]) -> None:
            if received:
                peer.strategy.absorb(peer.learner, [*reversed(received)])

    once, again = _ends(world.run()), _ends(world.run())
    require(once == again, "two runs with the same seeds came to other bits")
    require(once == _ends(world.run(Reversed)), "answers absorbed in another order came to other bits")


def resuming_gives_the_same_bits(world: World) -> None:
    """A run in which peers are saved to disk and resumed between two phases comes to the same bits as one without."""

    class Resuming(DirectRounds):
        def performed(self, peer: DirectPeer) -> None:
            phases[peer.name] += 1
            if (phases[peer.name] + self.peers.index(peer)) % 3 == 0:  # one peer in three, after each kind of phase
                _resume(peer, next(member for member in world.peers() if member[0] == peer.name))

    phases: Counter[str] = Counter()
    straight, resumed = _ends(world.run()), _ends(world.run(Resuming))
    require(resumed == straight, "a run resumed from disk came to other bits than one without")


def an_interrupted_transfer_changes_nothing(world: World) -> None:
    """When a transfer is interrupted, and the strategy given its state of before, everything is as it was before."""

    class Cut(DirectRounds):
        def transfer(self, peer: DirectPeer, span: Span) -> Report:
            before, saved = state_of(peer), state.tree(peer.strategy.state_dict())
            peer.learner.interrupt()
            try:
                with peer.learner.tentative():
                    return super().transfer(peer, span)
            except Interrupted:
                peer.strategy.load_state_dict(saved)  # as the fabric does
                require(state_of(peer) == before, "an interrupted transfer has changed something")
            finally:
                peer.learner.go_on()
            return super().transfer(peer, span)

    world.run(Cut)


def a_mixture_can_be_mixed_again(world: World) -> None:
    """A strategy with `transfer_without` gives the same weights when none is left out, and names none of those that
    are."""

    class Again(DirectRounds):
        def transfer(self, peer: DirectPeer, span: Span) -> Report:
            strategy, learner = peer.strategy, peer.learner
            before, mark = weights(learner), learner.mark()
            report = super().transfer(peer, span)
            if isinstance(strategy, Separable) and report.providers:
                mixed, after, absent = weights(learner), learner.mark(), {report.providers[0]}
                learner.restore(mark)
                without = strategy.transfer_without(learner, absent)
                require(not absent & set(without.providers), "`transfer_without` used one that was to be left out")
                learner.restore(mark)
                if strategy.transfer_without(learner, ()).providers:
                    require(weights(learner) == mixed, "`transfer_without` with none left out came to other weights")
                else:
                    unchanged = weights(learner) == before
                    require(unchanged, "`transfer_without` had nothing to repeat, and yet changed the weights")
                learner.restore(after)
                strategy.transfer_done()
            return report

    world.run(Again)


def a_resumable_span_can_be_cut(world: World) -> None:
    """Where `resumable` is True, two halves of a local span come to the same bits as the whole."""
    for whole, halves in zip(world.run().peers, world.run().peers, strict=True):
        if whole.strategy.resumable and whole.learner.count(epochs(1)):
            whole.strategy.local(whole.learner, steps(4))
            for _ in range(2):
                halves.strategy.local(halves.learner, steps(2))
            same = state_of(whole) == state_of(halves)
            require(same, "`resumable` is True, yet a local span in two parts came to other bits")


def predictions_are_probabilities(world: World) -> None:
    """`predict` gives probabilities (B, C) that sum to one, and changes nothing."""
    for peer in world.run().peers:
        x, before = peer.learner.sample(5), state_of(peer)
        if len(x):
            p = peer.strategy.predict(peer.learner, x)
            require(p.shape == (len(x), peer.learner.classes), f"`predict` gave {tuple(p.shape)} instead of (B, C)")
            summed = torch.allclose(p.sum(dim=1), torch.ones(len(x)), atol=1e-4)
            require(summed and bool((p >= 0).all()), "`predict` gave no probabilities: negative, or not summing to 1")
            require(state_of(peer) == before, "`predict` has changed something")


LAWS: Final[tuple[Callable[[World], None], ...]] = (
    absorbing_twice_is_absorbing_once,
    foreign_knowledge_is_refused,
    a_forgotten_provider_teaches_no_more,
    without_providers_nothing_changes,
    the_same_seeds_give_the_same_bits,
    resuming_gives_the_same_bits,
    an_interrupted_transfer_changes_nothing,
    a_mixture_can_be_mixed_again,
    a_resumable_span_can_be_cut,
    predictions_are_probabilities,
)


def _resume(peer: DirectPeer, fresh: Member) -> None:
    _, learner, strategy = fresh
    with tempfile.TemporaryDirectory() as directory:
        tree = {"learner": peer.learner.state_dict(), "strategy": dict(peer.strategy.state_dict())}
        checkpoint.save(directory, tree, name=peer.name)
        saved = checkpoint.load(directory, name=peer.name)
    strategy.paced(lockstep=True)
    learner.load_state_dict(saved["learner"])
    strategy.load_state_dict(saved["strategy"])
    peer.resume(fresh)


def _ends(rounds: DirectRounds) -> list[tuple[str, str]]:
    return [state_of(peer) for peer in rounds.peers]


def _spoilt(good: Knowledge) -> list[tuple[str, Knowledge]]:
    """The same knowledge, each time with one thing wrong."""
    tensors: dict[str, Any] = dict(good.tensors)
    name = next((n for n, t in tensors.items() if _values(t).is_floating_point() and _values(t).numel()), None)
    found: list[tuple[str, Knowledge]] = [
        ("a tensor that was not asked for", _with(good, {**tensors, "nose": torch.zeros(1)})),
        ("knowledge of the other kind", _other_kind(good)),
    ]
    if tensors:
        found.append(("knowledge without its tensors", _with(good, {})))
    if isinstance(good, Params) and tensors:
        found.append(("another architecture", replace(good, architecture="0" * 64)))
    elif isinstance(good, Outputs):
        found.append(("another data set", replace(good, fingerprint="0" * 64)))
    if name is not None:
        values = _values(tensors[name])
        more = (
            [("another dtype", values.double())] if isinstance(good, Params) and values.dtype != torch.float64 else []
        )
        for what, wrong in [*_wrong(values), *more]:
            found.append((what, _with(good, {**tensors, name: _put(tensors[name], wrong)})))
    return found


def _wrong(values: Tensor) -> list[tuple[str, Tensor]]:
    lame, endless = values.clone(), torch.full_like(values, torch.inf)
    lame.view(-1)[-1] = torch.nan
    return [
        ("a NaN", lame),
        ("infinite values", endless),
        ("whole numbers instead of floats", values.nan_to_num().long()),
        ("another shape", values.reshape(-1)[:-1]),
    ]


def _values(tensor: Tensor | Sparse) -> Tensor:
    return tensor.values if isinstance(tensor, Sparse) else tensor


def _put(tensor: Tensor | Sparse, values: Tensor) -> Tensor | Sparse:
    return replace(tensor, values=values) if isinstance(tensor, Sparse) else values


def _with(good: Knowledge, tensors: Mapping[str, Any]) -> Knowledge:
    return replace(good, tensors=tensors)


def _other_kind(good: Knowledge) -> Knowledge:
    if isinstance(good, Outputs):
        return Params(tensors=good.tensors, architecture="0" * 64, version=good.version)
    return Outputs(dataset="d", fingerprint="f", ids=torch.arange(2), tensors={}, version=good.version)
