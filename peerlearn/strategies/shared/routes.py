"""The routes from a provider to a learner: its parameters, its outputs on a common public set, or none.

For methods that know both routes: the exposures that they need and show, the query for outputs, and the answers.
"""

from typing import Literal

from peerlearn.knowledge import Answer, Query
from peerlearn.learning.dataset import Unlabelled
from peerlearn.learning.learner import Learner
from peerlearn.learning.snapshot import Snapshot
from peerlearn.strategies.shared import answers, averaging
from peerlearn.types import Card, Exposure

Via = Literal["auto", "params", "outputs"]
"""The routes that a peer allows."""

_SHOWN = {"params": Exposure.PARAMS_FULL, "outputs": Exposure.PUBLIC_OUTPUTS}
"""The exposure of each route."""


def needed(via: Via) -> frozenset[Exposure]:
    """The exposure of a fixed route; none for `auto`, where any provider may have either."""
    return frozenset({_SHOWN[via]}) if via in _SHOWN else frozenset()


def shown(via: Via) -> frozenset[Exposure]:
    """The exposures of answers by these routes, class counts included."""
    return frozenset({Exposure.HISTOGRAM, *(needed(via) or _SHOWN.values())})


def outputs_on(public: Unlabelled) -> Query:
    """The query for a provider's outputs on a whole public set."""
    return Query(want="outputs", select={"dataset": public.name, "fingerprint": public.fingerprint, "ids": None})


def answered(strategy: str, via: Via, snapshot: Snapshot, query: Query) -> Answer:
    """The answer of a snapshot that was published with the learner's public sets."""
    if query.want == "params" and not query.select and Exposure.PARAMS_FULL in shown(via):
        return answers.whole_model(snapshot)
    if query.want == "outputs" and Exposure.PUBLIC_OUTPUTS in shown(via):
        return answers.public_logits(snapshot, snapshot.extras or (), query)
    return answers.not_mine(strategy, query)


def common_set(learner: Learner, provider: Card) -> Unlabelled | None:
    """The learner's first public set that the provider holds too; None when there is none."""
    held = {public.fingerprint for public in provider.public_sets}
    return next((public for public in learner.public_sets if public.fingerprint in held), None)


def route_to(learner: Learner, provider: Card, via: Via) -> Unlabelled | str | None:
    """The route from this provider: None for its parameters, a public set for its outputs on it, or a sentence why
    there is none."""
    if provider.classes != learner.classes:
        return f"{provider.name} tells {provider.classes} classes apart, this learner {learner.classes}"
    unlike = averaging.unfit(learner, provider)
    if via != "outputs" and Exposure.PARAMS_FULL in provider.exposes:
        if unlike is None:
            return None
        if via == "params":
            return unlike
    if via == "params":
        return f"{provider.name} does not show its parameters"
    if Exposure.PUBLIC_OUTPUTS not in provider.exposes:
        return f"{provider.name} shows neither parameters that fit nor outputs on public sets"
    if (common := common_set(learner, provider)) is not None:
        return common
    why = "teaches by outputs, but" if via == "outputs" else _no_params(unlike)
    return (
        f"{provider.name} {why} the two hold no public set in common; "
        f"give both peers the same public set: Learner(public_sets=[...])"
    )


def _no_params(unlike: str | None) -> str:
    return "does not show its parameters, and" if unlike is None else "cannot be averaged with, and"
