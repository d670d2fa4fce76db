"""The border between errors and exit codes: a user's mistake is one sentence on stderr, never a traceback."""

import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import typer

from peerlearn.cli.output import write_json
from peerlearn.errors import ConfigError, PeerlearnError

# click's UsageError, wherever it lives: newer typer carries its own click
USAGE_ERROR: type[BaseException] = typer.BadParameter.__mro__[1]
INTERRUPTED = 128 + signal.SIGINT


def guarded(call: Callable[[], object], *, as_json: bool = False) -> int:
    """Run it; the exit code. Bugs come out as they are, with their traceback."""
    try:
        code = call()
    except PeerlearnError as exc:
        return _failed(exc, as_json=as_json)
    except BaseExceptionGroup as group:
        if (cause := _first(group)) is None:
            raise
        return _failed(cause, as_json=as_json)
    except USAGE_ERROR as exc:
        if not (said := _usage(exc)):  # a group of commands without one of them: its help has been printed
            return 0
        return _failed(ConfigError(said), as_json=as_json)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: nothing to flush at exit
        return 128 + signal.SIGPIPE
    return code if isinstance(code, int) else 0


def leave(code: int) -> NoReturn:
    """End the process. The last collection would walk all of torch for most of a second, and free nothing that the
    end of the process does not: `up` promises to be gone soon."""
    gc.freeze()
    sys.exit(code)


def _first(group: BaseExceptionGroup[BaseException]) -> PeerlearnError | None:
    """The error to tell the user, when nothing but errors raised on purpose happened."""
    ours, others = group.split(PeerlearnError)
    first: BaseException | None = ours
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first if others is None and isinstance(first, PeerlearnError) else None


def _usage(exc: BaseException) -> str:
    text: str = exc.format_message() if hasattr(exc, "format_message") else str(exc)
    return f"{text.rstrip('.')}; see peerlearn --help" if text else ""


def _failed(exc: PeerlearnError, *, as_json: bool) -> int:
    sys.stderr.write(f"peerlearn: {exc}\n")
    if as_json:
        write_json({"error": {"kind": type(exc).__name__, "message": str(exc), "exit_code": exc.exit_code}})
    return exc.exit_code
