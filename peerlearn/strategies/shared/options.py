"""Checks of a strategy's options at construction; each failure is one sentence."""

from collections.abc import Iterable, Mapping

from peerlearn.errors import ConfigError


def check_choices(strategy: str, options: object, choices: Mapping[str, Iterable[object]]) -> None:
    """Raises ConfigError for an attribute of `options` that is not among its choices."""
    for option, allowed in choices.items():
        value = getattr(options, option)
        if value not in allowed:
            raise ConfigError(f"{strategy}: {option} {value!r} is not one of {', '.join(map(repr, allowed))}")


def check_least(strategy: str, options: object, least: Mapping[str, float]) -> None:
    """Raises ConfigError for an attribute of `options` that is below its least value or not finite."""
    for option, bound in least.items():
        value = getattr(options, option)
        if not bound <= value < float("inf"):
            raise ConfigError(f"{strategy}: {option} must be at least {bound:g}, not {value}")
