"""`my_app.model:learner` -> Learner, as uvicorn finds an app; every way it can fail has its own sentence."""

import importlib
import inspect
import linecache
import sys
import traceback
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from peerlearn.errors import ConfigError, LearnerError, PeerlearnError
from peerlearn.suggest import did_you_mean

if TYPE_CHECKING:
    from peerlearn.learning.learner import Learner


def load_learner(path: str) -> "Learner":
    """Import MODULE:NAME with the working directory on the path; NAME is a Learner, or a callable that returns one.

    Raises ConfigError when the path leads nowhere, LearnerError when the user's own code fails or gives something else.
    """
    module_name, _, attribute = path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise ConfigError(f"{path!r} is not an import path: write MODULE:NAME, for example my_app.model:learner")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    found = _attribute(_module(module_name), attribute)
    if _is_factory(found):
        found = _made(found, path)
    from peerlearn.learning.learner import Learner

    if not isinstance(found, Learner):
        raise LearnerError(
            f"{path} is of type {_type_name(found)}, not a peerlearn.Learner: "
            "wrap your model and data, learner = peerlearn.Learner(model, train_set), and name that"
        )
    return found


def _module(name: str) -> ModuleType:
    with _users_code(f"importing {name}", absent=name):
        return importlib.import_module(name)


def _attribute(module: ModuleType, path: str) -> Any:
    found: Any = module
    for part in path.split("."):
        names = [n for n in vars(found) if not n.startswith("_")] if hasattr(found, "__dict__") else []
        if not hasattr(found, part):
            file = getattr(module, "__file__", None) or "a namespace without a file"
            where = f"{module.__name__} ({file})"
            near = did_you_mean(part, names)
            raise ConfigError(f"{where} has no {path!r}: write MODULE:NAME of your Learner{near}")
        found = getattr(found, part)
    return found


def _is_factory(found: Any) -> bool:
    """A model is callable too, but calling it is not how a Learner is made."""
    return inspect.isroutine(found) or inspect.isclass(found)


def _made(factory: Any, path: str) -> Any:
    with _users_code(f"calling {path}"):
        signature = inspect.signature(factory)
        try:
            signature.bind()
        except TypeError:
            message = f"{path}{signature} needs arguments; name a Learner, or a callable that takes none"
            raise ConfigError(message) from None
        return factory()


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


class _users_code:  # noqa: N801 - reads as a statement: with _users_code("importing x")
    """Whatever goes wrong inside is the user's: one sentence with the user's own line, no traceback."""

    def __init__(self, doing: str, *, absent: str = "") -> None:
        self._doing = doing
        self._absent = absent

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if exc is None or isinstance(exc, PeerlearnError) or not isinstance(exc, Exception | SystemExit):
            return
        if isinstance(exc, ModuleNotFoundError) and self._absent and self._leads_nowhere(exc.name or ""):
            looked = f"looked in {Path.cwd()} and the installed packages"
            raise ConfigError(f"there is no module {exc.name!r}: {looked}; start in the directory of your app") from exc
        raise LearnerError(f"{self._doing} failed: {_said(exc)}{_place(exc)}") from exc

    def _leads_nowhere(self, missing: str) -> bool:
        return self._absent == missing or self._absent.startswith(missing + ".")


def _said(exc: BaseException) -> str:
    text = exc.msg if isinstance(exc, SyntaxError) else str(exc)
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def _place(exc: BaseException) -> str:
    """` (FILE, line N: source)` of the innermost line that is the user's own."""
    if isinstance(exc, SyntaxError) and exc.filename:
        return f" ({exc.filename}, line {exc.lineno}: {(exc.text or '').strip()})"
    mine = str(Path(__file__).parents[1])
    frames = [f for f in traceback.extract_tb(exc.__traceback__) if not f.filename.startswith((mine, "<frozen"))]
    frames = [f for f in frames if not f.filename.startswith((sys.prefix, sys.base_prefix))] or frames
    if not frames:
        return ""
    last = frames[-1]
    line = last.line or linecache.getline(last.filename, last.lineno or 0).strip()
    return f" ({last.filename}, line {last.lineno}: {line})"
