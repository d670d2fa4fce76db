"""Names that a user may type, checked before anything slow is imported."""

from collections.abc import Iterable
from difflib import get_close_matches
from importlib.metadata import entry_points

from peerlearn.errors import ConfigError
from peerlearn.types import Address


def strategy(name: str) -> str:
    """The name, when a strategy of that name is installed. Raises ConfigError."""
    names = sorted(entry_points(group="peerlearn.strategies").names)
    if name not in names:
        raise ConfigError(f"there is no strategy {name!r}{nearest(name, names)}; installed: {', '.join(names)}")
    return name


def nearest(word: str, words: Iterable[str]) -> str:
    """` (did you mean 'this'?)`, to follow a name, or nothing when no word is near."""
    lower = {w.lower(): w for w in words}
    found = get_close_matches(word.lower(), lower, n=1, cutoff=0.55)
    return f" (did you mean {lower[found[0]]!r}?)" if found else ""


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
