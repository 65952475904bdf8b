"""The exceptions of the project that a user is meant to read."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten
from typing import NoReturn

from lesa.redaction import redacted

LONGEST = 300  # of what a library says, in the line that names its cause


class UserError(Exception):
    """Bad input: one line naming the key or file, what was wrong and what would be right.

    Stages print the line and exit with status 2, without a traceback. What others' texts bring
    into it is made fit for that: their lines become one, and their secrets are hidden.
    """

    status = 2

    def __init__(self, message: str) -> None:
        super().__init__(redacted(" ".join(message.splitlines())))


class CheckError(Exception):
    """A result that is no model: one line that names the checkpoint and says why.

    Commands and stages print the line and exit with status 1, without a traceback.
    """

    status = 1


def replace_unprintable() -> None:
    """Let stdout print `?` for what its encoding lacks: a terminal may have ASCII alone."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def fail(message: str, status: int = 2) -> NoReturn:
    """End a command with one line on stderr."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


@contextmanager
def one_line() -> Iterator[None]:
    """End a command with one line: status 2 for bad input, and for what the system refuses, said of
    the working folder where it names no file; 1 for a result that is no model."""
    try:
        yield
    except (UserError, CheckError) as error:
        fail(str(error), error.status)
    except OSError as error:
        fail(f"{error.filename or os.getcwd()}: {error.strerror or error}")


@contextmanager
def explained(message: str) -> Iterator[None]:
    """Turn whatever a library raises in the block into a UserError that starts with `message`.

    Broad on purpose: hub clients let their HTTP library's errors through, and that library changes.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        said = repr(error) if isinstance(error, KeyError) else str(error)  # a bare key says nothing
        first, *others = [line.strip() for line in said.splitlines() if line.strip()] or [""]
        line = " ".join([first, *others]) if first.endswith(":") else first  # of a list, all
        line = shorten(line, LONGEST, placeholder=" …") or type(error).__name__
        raise UserError(f"{message}: {line}") from error
