"""Errors of the Hugging Face hub's clients as one line for the user."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from lesa.errors import UserError


@contextmanager
def explained(message: str) -> Iterator[None]:
    """Turn whatever a hub client raises in the block into a UserError that starts with `message`.

    Broad on purpose: the clients let their HTTP library's errors through, and that library changes.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(f"{message}: {lines[0] if lines else type(error).__name__}") from error
