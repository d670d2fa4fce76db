"""What of a tensor may be lost on the way: the names of lossy casts. No torch."""

from peerlearn.errors import ConfigError

DTYPE_CASTS = frozenset({"bfloat16", "float16", "int8"})
_TOP = "topk:"


def check_cast(cast: str) -> str:
    """The cast, when there is such a one: "" (lossless), a dtype that wider floating tensors travel as, or "topk:0.01":
    of a floating tensor that the consumer holds, that share of its values at most is brought up to date, those that
    have changed most. Raises ConfigError."""
    if cast and cast not in DTYPE_CASTS and not 0 < top_share(cast) <= 1:
        raise ConfigError(
            f"there is no cast to {cast[:40]!r}; use one of {', '.join(sorted(DTYPE_CASTS))}, "
            f"or {_TOP}SHARE with a share above 0 and at most 1, for example {_TOP}0.01"
        )
    return cast


def top_share(cast: str) -> float:
    """The share of a top-k cast; 0 for any other, and for what is no number."""
    try:
        return float(cast.removeprefix(_TOP)) if cast.startswith(_TOP) else 0.0
    except ValueError:
        return 0.0
