"""The settings of multi-headed distillation that cannot work, each refused with one sentence."""

import math
from typing import TYPE_CHECKING, get_args

from peerlearn.errors import ConfigError
from peerlearn.strategies.mhd_loss import Teacher

if TYPE_CHECKING:
    from peerlearn.strategies.mhd import MHD


def check_options(mhd: "MHD") -> None:
    """Raises ConfigError."""
    choices = {"teacher": get_args(Teacher), "mode": ("outputs", "checkpoint")}
    for option, allowed in choices.items():
        if getattr(mhd, option) not in allowed:
            raise ConfigError(f"mhd: {option} {getattr(mhd, option)!r} is not one of {', '.join(allowed)}")
    least = {
        "heads": 0, "teachers_per_step": 1, "pool": 1, "refresh": 1, "public_batch": 1, "public_seed": 0,
        "warm_up": 0, "cosine": 1,
    }  # fmt: skip
    for option, at_least in least.items():
        value = getattr(mhd, option)
        if value is not None and value < at_least:
            raise ConfigError(f"mhd: {option} must be at least {at_least}, not {value}")
    for option in ("nu_emb", "nu_aux", "clip"):
        value = getattr(mhd, option)
        if value is not None and not 0 <= value < math.inf:
            raise ConfigError(f"mhd: {option} must be at least 0 and finite, not {value}")
    if mhd.clip == 0:
        raise ConfigError("mhd: clip 0 would leave no gradient; leave it out to clip nothing")
    if mhd.heads == 0 and mhd.same_level:
        raise ConfigError("mhd: same_level is about auxiliary heads, and heads=0 trains none")
