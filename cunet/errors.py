"""The one exception a user of the library has to know."""


class InputError(ValueError):
    """Something handed in by the user cannot be used.

    The message is one paragraph: the value, what was expected, and what to do. The command line prints it
    without a traceback and exits with status 2.
    """
