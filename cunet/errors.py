"""The exceptions whose text is written for the user, and how a command says what went wrong.

A process of the library that ends with one of them leaves one paragraph, which begins with `cunet: `, and an
exit status. Whoever started the process reads the paragraph back with `said`.
"""

import contextlib
import errno
import functools
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from numbers import Integral

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # what a write fails with, without a file's name
MARK = "cunet: "
"""What a command's paragraph begins with."""


class Explained:
    """What an exception is whose text is one paragraph for the user: a command shows that and no traceback.

    status: the exit status of the command.
    """

    status = 1


class InputError(Explained, ValueError):
    """Something handed in by the user cannot be used.

    The message is one paragraph: the value, what was expected, and what to do.
    """

    status = 2


class TrainingDiverged(InputError):
    """The loss or gradient is NaN or infinite. The text has the step, the last good state, what to try."""


class TrainingInterrupted(Explained, KeyboardInterrupt):
    """SIGINT or SIGTERM came to the training `name`. The text says what is saved, and how to go on."""

    status = 130
    SAYS = "was stopped"  # of the training that has the name; whoever reads what processes said goes by it

    def __init__(self, name: str, rest: str):
        super().__init__(f"Training {name} {self.SAYS} {rest}")


class NotebookError(Explained, RuntimeError):
    """A cell of a notebook failed, its kernel died, or it wrote no result."""


class ChainError(Explained, RuntimeError):
    """A job of the chain failed."""


class Interrupted(Explained, KeyboardInterrupt):
    """SIGINT or SIGTERM came. `signum` is its number. No `except Exception` takes it for a failure."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum, self.status = signum, 128 + signum

    def __str__(self) -> str:
        name = signal.Signals(self.signum).name
        return f"Stopped by {name}. Nothing is half-written. The same command resumes."


def one_of(what: str, value: str, known) -> None:
    """Raise InputError unless `value` is one of the names in `known`, with the nearest as a hint."""
    if value not in known:
        near = get_close_matches(str(value), known, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(f"Unknown {what} {value!r}: expected one of {', '.join(known)}.{hint}")


def whole_numbers(**named: tuple) -> None:
    """Raise InputError unless every name=(value, least) is a whole number from `least` up to 2^63 - 1."""
    for name, (value, least) in named.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or not least <= value < 2**63:
            raise InputError(f"{name}={value!r}: expected a whole number, {least} or more.")


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` in the main thread at the first SIGINT or SIGTERM; ignore later ones."""

    def handler(signum, frame):
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        raise Interrupted(signum)

    try:
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            signal.signal(number, handler)
    except ValueError:  # not in the main thread: whoever owns it handles signals
        yield
        return
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def command(main: Callable[..., int]) -> Callable[..., int]:
    """The `main` of a `python -m cunet.module`: what a user can mend, and SIGINT and SIGTERM, become a
    paragraph, see `explain`."""

    @functools.wraps(main)
    def wrapped(*arguments, **options) -> int:
        try:
            with interruptible():
                return main(*arguments, **options)
        except (Exception, KeyboardInterrupt) as error:
            return explain(error)

    return wrapped


def explain(error: BaseException) -> int:
    """Say what went wrong; returns the exit status. An error of the program itself keeps its traceback."""
    from typer import Abort  # what typer makes of an interruption while it reads the arguments

    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(bool(error.code))
    if hasattr(error, "format_message") and hasattr(
        error, "exit_code"
    ):  # the command line could not be parsed
        error.show()
        return error.exit_code
    if isinstance(error, Explained):
        return say(str(error), error.status)
    if isinstance(error, (KeyboardInterrupt, Abort)):
        return say("Stopped. The same command resumes.", 130)
    if isinstance(error, BrokenPipeError):
        return 1
    if isinstance(error, OSError) and not error.filename and error.errno in NO_ROOM:
        return say(
            f"{error.strerror}. Make room on the disk, or choose a folder that can be written (--out, "
            "CUNET_DATA, TMPDIR), and give the same command again.",
            2,
        )
    if isinstance(error, OSError) and error.filename:
        return say(
            f"{error.filename}: {error.strerror}. Check the path, its permissions and the free space.", 2
        )
    raise error


def say(text: str, status: int) -> int:
    """Print a paragraph on stderr; returns the status."""
    print(f"{MARK}{text}", file=sys.stderr)
    return status


def said(lines: Iterable[str]) -> list[str]:
    """What commands have told with `say`, of the lines that their processes printed; without the mark."""
    return [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]
