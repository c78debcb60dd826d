"""The one exception that a user of the library has to know, and how a module run as a command tells of it."""

import functools
import sys
from collections.abc import Callable


class InputError(ValueError):
    """Something handed in by the user cannot be used.

    The message is one paragraph: the value, what was expected, and what to do. The command line prints it
    without a traceback and exits with status 2.
    """


def command(main: Callable[..., int]) -> Callable[..., int]:
    """The `main` of a `python -m cunet.module`: an InputError becomes a paragraph on stderr and status 2."""

    @functools.wraps(main)
    def wrapped(*arguments, **options) -> int:
        try:
            return main(*arguments, **options)
        except InputError as error:
            return say(str(error), 2)

    return wrapped


def say(text: str, status: int) -> int:
    """Print a paragraph on stderr; returns the status."""
    print(f"cunet: {text}", file=sys.stderr)
    return status
