"""The exception for mistakes that a user can fix, and how every command line reports it."""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

FAILED, INTERRUPTED = 2, 130
"""Exit codes after an SpdError and after Ctrl-C."""


class SpdError(Exception):
    """A failure the user can fix. The message says what was wrong, where, and what to do."""


def run_command(command: Callable[[], int | None], interrupted: str = "interrupted") -> int:
    """Run a command line and turn expected failures into a message on stderr and an exit code.

    Args:
        command: Does the work and returns an exit code; None means 0.
        interrupted: The message after Ctrl-C.

    Returns:
        The command's exit code, 2 after an SpdError or OSError, or 130 after Ctrl-C. If the reader of stdout has gone
        (`… | head`), the result is 0.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text, nor fit the encoding
    try:
        code = int(command() or 0)
        if sys.stdout is not None:  # it was closed before the start (`>&-`)
            sys.stdout.flush()
    except SpdError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more at exit; point it somewhere that accepts the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else reason(error)
        print(f"error: {what}", file=sys.stderr)
        return FAILED
    return code


def program(command: str) -> str:
    """How to start a command here: `python -m train …` in a clone, `spd-weights train …` from a wheel.

    Args:
        command: "train" or "eval", with any further words.
    """
    return f"python -m {command}" if in_clone() else f"spd-weights {command}"


def in_clone() -> bool:
    """Say whether this package lies in a clone, beside train/ and eval/; a wheel has spd_train and spd_eval."""
    return (Path(__file__).parents[1] / "train" / "recipes.py").is_file()


def shown(name: object, limit: int = 100) -> str:
    """Format a text of unknown origin for a message: printable, one line, at most `limit` characters."""
    text = str(name)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def reason(error: BaseException, limit: int = 100) -> str:
    """Format what another library's error says, or its kind if it says nothing, as `shown` does."""
    said = " ".join(str(error).split())
    return shown(f"{type(error).__name__}: {said}" if isinstance(error, KeyError) or not said else said, limit)
