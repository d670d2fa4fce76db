"""How a learner can learn from a provider: by its parameters, by its outputs on a common public set, or not at all."""

from typing import Literal

from peerlearn.learning.data import Unlabelled
from peerlearn.learning.learner import Learner
from peerlearn.strategies import averaging
from peerlearn.types import Card, Exposure

Via = Literal["auto", "params", "outputs"]


def way_to_learn(learner: Learner, provider: Card, via: Via) -> Unlabelled | str | None:
    """None: its parameters; a public set: its outputs on it; a sentence: not at all, and why."""
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
    held = {public.fingerprint for public in provider.public_sets}
    common = next((public for public in learner.public_sets if public.fingerprint in held), None)
    if common is not None:
        return common
    why = "teaches by outputs, but" if via == "outputs" else _no_params(unlike)
    return (
        f"{provider.name} {why} the two hold no public set in common; "
        f"give both peers the same public set: Learner(public_sets=[...])"
    )


def _no_params(unlike: str | None) -> str:
    return "does not show its parameters, and" if unlike is None else "cannot be averaged with, and"
