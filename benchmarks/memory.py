"""Memory that the kernel cannot drop: what processes hold besides pages of mapped files."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

PROC = Path("/proc")  # Linux only
FIELDS = ("RssAnon:", "RssShmem:")
INTERVAL = 0.1  # seconds: looking at all processes takes time from what is measured


def anonymous_bytes() -> int | None:
    """Resident bytes of this process and all below it that are no file's, added up.

    None where the system does not say.
    """
    try:
        own = held_by(os.getpid())
    except OSError:
        return None
    return own + sum(
        held_by_child(child.pid) for child in psutil.Process().children(recursive=True)
    )


def held_by(pid: int) -> int:
    lines = (PROC / str(pid) / "status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(FIELDS))


def held_by_child(pid: int) -> int:
    """0 once it has ended."""
    try:
        return held_by(pid)
    except OSError:
        return 0


class Peak:
    """The largest value seen so far, sampled; None before the first and where there is none."""

    value: int | None = None

    def look(self) -> None:
        now = anonymous_bytes()
        if now is not None:
            self.value = max(now, self.value or 0)


@contextmanager
def watched() -> Iterator[Peak]:
    """Sample this process and its workers while the block runs."""
    peak, stop = Peak(), threading.Event()

    def watch() -> None:
        while not stop.wait(INTERVAL):
            peak.look()

    thread = threading.Thread(target=watch, daemon=True)
    peak.look()
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
        peak.look()
