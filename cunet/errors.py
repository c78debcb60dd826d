"""The one exception that a user of the library has to know, and how a command says what went wrong."""

import functools
import sys
from collections.abc import Callable
from difflib import get_close_matches


class InputError(ValueError):
    """Something handed in by the user cannot be used.

    The message is one paragraph: the value, what was expected, and what to do. The command line prints it
    without a traceback and exits with status 2.
    """


def one_of(what: str, value: str, known) -> None:
    """Raise InputError unless `value` is one of the names in `known`, with the nearest as a hint."""
    if value not in known:
        near = get_close_matches(str(value), known, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(f"Unknown {what} {value!r}: expected one of {', '.join(known)}.{hint}")


def command(main: Callable[..., int]) -> Callable[..., int]:
    """The `main` of a `python -m cunet.module`: what a user can mend becomes a paragraph, see `explain`."""

    @functools.wraps(main)
    def wrapped(*arguments, **options) -> int:
        try:
            return main(*arguments, **options)
        except (Exception, KeyboardInterrupt) as error:
            return explain(error)

    return wrapped


def explain(error: BaseException) -> int:
    """Say what went wrong; returns the exit status. An error of the program itself keeps its traceback."""
    name = type(error).__name__
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(bool(error.code))
    if hasattr(error, "format_message") and hasattr(
        error, "exit_code"
    ):  # the command line could not be parsed
        error.show()
        return error.exit_code
    if isinstance(error, InputError):
        return say(str(error), 2)
    if name in ("NotebookError", "ChainError"):
        return say(str(error), 1)
    if name == "Interrupted":
        return say(
            f"Stopped by {error}. Nothing is half-written. The same command resumes.", 128 + error.signum
        )
    if isinstance(error, KeyboardInterrupt) or name == "Abort":
        return say(f"{str(error) or 'Stopped.'} The same command resumes.", 130)
    if isinstance(error, BrokenPipeError):
        return 1
    if isinstance(error, OSError) and error.filename:
        return say(
            f"{error.filename}: {error.strerror}. Check the path, its permissions and the free space.", 2
        )
    raise error


def say(text: str, status: int) -> int:
    """Print a paragraph on stderr; returns the status."""
    print(f"cunet: {text}", file=sys.stderr)
    return status
