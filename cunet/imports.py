"""Imports that would take seconds for nothing.

Some libraries import, only to see whether it is there, what is not needed here. A run starts several
processes a notebook, and each would pay for it again.
"""

import contextlib
import sys
from collections.abc import Iterator

IRI_GRAMMAR = "rfc3987_syntax"
"""Compiled whenever jsonschema is imported, so with nbformat and jupytext too: 2 s for the grammar of
internationalised web addresses, of which no notebook's schema has one. JupyterLab brings it along."""


@contextlib.contextmanager
def hidden(package: str) -> Iterator[None]:
    """Let the imports inside a `with` block not find `package`, as if it were not installed.

    Only for importers that go without it. A package that was imported before stays as it is.
    """
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # the import system's own sign: ModuleNotFoundError
    try:
        yield
    finally:
        del sys.modules[package]
