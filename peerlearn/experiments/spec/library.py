"""Where the experiments that ship are found: inside an installed package, or in the checkout beside it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from peerlearn.errors import ConfigError
from peerlearn.suggest import did_you_mean

_INSTALLED = Path(__file__).parents[1] / "shipped"
_CHECKOUT = Path(__file__).parents[3] / "examples" / "experiments"


@dataclass(frozen=True, slots=True)
class Shipped:
    name: str
    path: Path


def shipped() -> tuple[Shipped, ...]:
    """Every experiment that ships, by name; the checkout's where there is one."""
    found = {path.stem: path for folder in (_INSTALLED, _CHECKOUT) for path in _files(folder)}
    return tuple(Shipped(name, found[name]) for name in sorted(found))


def find(text: str) -> Path:
    """A file, or an experiment that ships by its name. Raises ConfigError, naming the nearest."""
    path = Path(text)
    if path.is_file():
        return path
    names = {each.name: each.path for each in shipped()}
    if path.stem in names and path.parent == Path() and path.suffix in ("", ".toml"):
        return names[path.stem]
    raise ConfigError(
        f"there is no file {text!r}, and no experiment of that name ships: `peerlearn experiment list` names them"
        f"{did_you_mean(path.stem, names)}"
    )


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(folder.glob("*.toml"))
