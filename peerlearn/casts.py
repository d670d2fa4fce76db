"""The names of lossy casts of tensors on the wire. Imports no torch."""

from peerlearn.errors import ConfigError

DTYPE_CASTS = frozenset({"bfloat16", "float16", "int8"})
"""Dtypes to which wider floating tensors may be cast on the wire."""
_TOP = "topk:"
"""Prefix of a top-k cast; its share follows."""


def check_cast(cast: str) -> str:
    """The cast itself, when it is valid; raises ConfigError otherwise.

    Valid are "" (lossless), a name in `DTYPE_CASTS`, and a top-k cast such as "topk:0.01". A top-k cast updates at most
    that share of the values of a floating tensor that the consumer holds: those that changed most.
    """
    if cast and cast not in DTYPE_CASTS and not 0 < top_share(cast) <= 1:
        raise ConfigError(
            f"there is no cast to {cast[:40]!r}; use one of {', '.join(sorted(DTYPE_CASTS))}, "
            f"or {_TOP}SHARE with a share above 0 and at most 1, for example {_TOP}0.01"
        )
    return cast


def top_share(cast: str) -> float:
    """The share of a top-k cast; 0 for other casts, and when the share is not a number."""
    try:
        return float(cast.removeprefix(_TOP)) if cast.startswith(_TOP) else 0.0
    except ValueError:
        return 0.0
