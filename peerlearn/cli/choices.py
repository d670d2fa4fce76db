"""Names that a user may type, checked before anything slow is imported."""

from collections.abc import Iterable
from importlib.metadata import entry_points

from peerlearn.errors import ConfigError
from peerlearn.suggest import did_you_mean
from peerlearn.types import Address


def strategy(name: str) -> str:
    """The name, when a strategy of that name is installed. Raises ConfigError."""
    names = sorted(entry_points(group="peerlearn.strategies").names)
    if name not in names:
        raise ConfigError(f"there is no strategy {name!r}, only {', '.join(names)}{did_you_mean(name, names)}")
    return name


def addresses(texts: Iterable[str]) -> tuple[str, ...]:
    """The same texts, when each is HOST:PORT. Raises ConfigError."""
    return tuple(str(Address.parse(text)) for text in texts)


def at_least(least: int, value: int, option: str) -> int:
    if value < least:
        raise ConfigError(f"{option} must be at least {least}, not {value}")
    return value


def between(least: int, value: int, most: int, option: str) -> int:
    if not least <= value <= most:
        raise ConfigError(f"{option} must lie between {least} and {most}, not {value}")
    return value


def above(least: float, value: float, option: str) -> float:
    if not least < value:
        raise ConfigError(f"{option} must be more than {least:g}, not {value:g}")
    return value
