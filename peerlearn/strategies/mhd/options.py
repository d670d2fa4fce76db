"""Checks of the settings of multi-headed distillation; each failure is one sentence."""

import math
from collections.abc import Mapping
from typing import Any, get_args

from peerlearn.errors import ConfigError
from peerlearn.strategies.mhd.loss import TeacherRule


def check_options(options: Mapping[str, Any]) -> None:
    """`options`: the fields of an MHD by name. Raises ConfigError for values that cannot work."""
    choices = {"teacher": get_args(TeacherRule), "mode": ("outputs", "checkpoint")}
    for option, allowed in choices.items():
        if options[option] not in allowed:
            raise ConfigError(f"mhd: {option} {options[option]!r} is not one of {', '.join(allowed)}")
    least = {
        "heads": 0, "teachers_per_step": 1, "pool": 1, "refresh": 1, "public_batch": 1, "public_seed": 0,
        "warm_up": 0, "cosine": 1,
    }  # fmt: skip
    for option, at_least in least.items():
        value = options[option]
        if value is not None and value < at_least:
            raise ConfigError(f"mhd: {option} must be at least {at_least}, not {value}")
    for option in ("nu_emb", "nu_aux", "clip"):
        value = options[option]
        if value is not None and not 0 <= value < math.inf:
            raise ConfigError(f"mhd: {option} must be at least 0 and finite, not {value}")
    if options["clip"] == 0:
        raise ConfigError("mhd: clip 0 would leave no gradient; leave it out to clip nothing")
    if options["heads"] == 0 and options["same_level"]:
        raise ConfigError("mhd: same_level is about auxiliary heads, and heads=0 trains none")
